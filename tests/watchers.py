"""Someone who looks on while a stream runs."""


class Quiet:
    """A watcher that only remembers: what was said, the stages that were trained, what was measured, shard by shard."""

    def __init__(self):
        self.said, self.trained, self.measured = [], [], []

    def say(self, text):
        self.said.append(text)

    def training(self, line, stage, progress):
        self.trained.append(stage)

    def measuring(self, stage, task, done, of):
        self.measured.append((stage, task, done, of))
