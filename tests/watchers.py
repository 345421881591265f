"""Someone who looks on while a stream runs."""


class Quiet:
    """A watcher that only remembers what was said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    def training(self, *_):
        pass

    def measuring(self, *_):
        pass
