"""What a sweep remembers, read again by another driver."""

from clray.lineage.store import Store
from clray.search.journal import COMPLETE, Entry, Journal


def test_an_entry_that_is_read_again_has_its_settings_in_the_order_of_the_space(tmp_path):
    store, settings = Store(str(tmp_path)), {"optimiser.learning_rate": 0.1, "method.replay": {"kind": "none"}}
    entry = Entry(rung=0, number=3, settings=settings, mark="data")
    kept = Journal(store, "sweep").begin(entry)
    Journal.read(store, "sweep").report(kept, {"stage": 1, "said": ["much"]}, COMPLETE)
    again = Journal.read(store, "sweep")
    found = again.begin(entry)
    assert found.ended and found.last == {"stage": 1, "at": 0}
    assert list(found.settings) == list(settings) and again.of_rung(0) == [found]


def test_an_entry_of_other_data_stands_anew(tmp_path):
    store = Store(str(tmp_path))
    entry = Entry(rung=0, number=3, settings={"seed": 1}, mark="data")
    journal = Journal(store, "sweep")
    journal.report(journal.begin(entry), {"stage": 1}, COMPLETE)
    found = Journal.read(store, "sweep").begin(Entry(rung=0, number=3, settings={"seed": 1}, mark="other data"))
    assert not found.ended and found.reports == ()
