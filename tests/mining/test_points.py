"""Knowledge points: the rarest phrases that occur, none saying the same twice."""

from clray.mining.points import holds_one, occurring, points, query

RARITY = {"cell wall": 5.0, "cell": 2.0, "wall": 3.0, "the": 0.1, "plants": 4.0, "stomata": 6.0}


def idf(phrases):
    return [RARITY.get(phrase) for phrase in phrases]


def test_points_are_the_rarest_phrases_that_occur_in_the_knowledge():
    found = points([["cell wall", "green dragon"]], ["the plants stomata cell wall"], most=3, idf=idf)
    assert found == [["stomata", "cell wall", "plants"]]


def test_a_word_of_a_phrase_that_is_taken_is_no_point_of_its_own():
    assert points([["cell wall"]], ["cell wall the"], most=5, idf=idf) == [["cell wall", "the"]]


def test_a_text_without_known_phrases_has_none_and_is_searched_whole():
    assert points([[]], ["unheard of"], most=5, idf=idf) == [[]]
    assert query("what is it?", ["water"], []) == "what is it? water"
    assert query("what is it?", ["water"], ["stomata", "plants"]) == "stomata plants"


def test_a_passage_holds_a_point_when_it_has_all_its_words():
    assert holds_one("The WALL of a cell.", ["cell wall"]) and not holds_one("a wall", ["cell wall"])
    assert holds_one("anything", [])


def test_a_word_of_many_questions_is_no_point_and_a_phrase_of_theirs_is():
    texts = [f"the plants number{n}" for n in range(30)]
    found = points([["cell wall"]] * 30, texts, most=5, idf=lambda phrases: [1.0] * len(phrases))
    assert found[7] == ["cell wall", "number7"]
    few = points([[]] * 2, texts[:2], most=5, idf=lambda phrases: [1.0] * len(phrases))
    assert few[0] == ["number0", "plants", "the"]


def test_named_phrases_keep_their_order_and_those_the_knowledge_has_not_are_left_out():
    named = [["cell", "green dragon", "stomata", "cell", "plants"], ["unheard of"], []]
    assert occurring(named, most=2, idf=idf) == [["cell", "stomata"], [], []]
