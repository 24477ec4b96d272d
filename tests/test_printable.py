"""Text that an archive sends -> text that may be shown."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesion_tasks.archive.legible import legible
from lesion_tasks.archive.printable import may_have_controls, printable, without_controls
from lesion_tasks.archive.record import CheckedRecord, Refusal, check_record

TRICKS = "\x1b\x07\x08\x0c\x7f\x9b\u202a\u202e\u2066\u2069"


def record(**clinical):
    return {"isic_id": "ISIC_0000001", "metadata": {"acquisition": {}, "clinical": clinical}}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_record_is_stored_without_any_control_character_in_values_or_names(trick):
    checked = check_record(
        record(**{"diagnosis_1": f"Ben{trick}ign", f"no{trick}te": [f"a{trick}", {"b": trick}]})
    )
    assert isinstance(checked, CheckedRecord)
    assert checked == check_record(record(diagnosis_1="Benign", note=["a", {"b": ""}]))


def test_a_backslash_that_is_text_stays():
    assert isinstance(found := check_record(record(note="\\u001b \\b C:\\f")), CheckedRecord)
    assert '"note":"\\\\u001b \\\\b C:\\\\f"' in found.document


def test_line_ends_letters_of_any_script_and_joiners_stay():
    text = "Clínic\n患者\tहृदय\u200d"
    assert without_controls({text: [text, 1, None, True]}) == {text: [text, 1, None, True]}


@given(st.text())
def test_the_short_look_misses_nothing_that_is_taken_off(text):
    document = json.dumps({"a": text}, ensure_ascii=False)
    assert may_have_controls(document) or without_controls(text) == text


@given(st.text())
def test_words_for_a_message_are_one_line_that_can_be_printed(text):
    assert printable(text).isascii()
    assert printable(text).isprintable()
    assert len(printable(text, 10)) <= 10


@given(st.text())
def test_words_about_an_own_table_keep_the_letters_of_every_script_and_nothing_that_cannot_be_printed(text):
    said = legible(text)
    assert said.isprintable()
    assert len(said) <= 500
    assert legible("diagnóstico 病变") == "diagnóstico 病变"
    assert legible("a\x1b[31mb\udcff\nc") == "a\\x1b[31mb\\udcff c"


def test_equal_reasons_are_equal_wherever_in_memory_they_arose():
    details = {printable(f"cannot identify image file {io.BytesIO(bytes(i))!r}") for i in range(5)}
    assert details == {"cannot identify image file <_io.BytesIO object>"}


def test_a_refusal_tells_in_plain_text_what_was_found():
    refused = check_record({"isic_id": f"ISIC{TRICKS}", "metadata": {}})
    shaped = check_record(record() | {"files": {f"full{TRICKS}\n": {}}})
    for each in (refused, shaped):
        assert isinstance(each, Refusal)
        assert (each.detail + each.document).isascii()
        assert (each.detail + each.document).isprintable()
