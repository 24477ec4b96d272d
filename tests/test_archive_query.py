import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_server.holdings import Holdings
from archive_server.sources import SyntheticSource
from archive_server.state import State
from lesion_tasks.archive.query import QueryCrashError, QueryError, parse, satisfies


def record(isic_id="ISIC_0000001", image_type="dermoscopic", **clinical):
    return {
        "isic_id": isic_id,
        "copyright_license": "CC-0",
        "metadata": {"acquisition": {"image_type": image_type}, "clinical": clinical},
        "public": True,
    }


@pytest.mark.parametrize(
    ("query", "clinical", "is_match"),
    [
        ("", {}, True),
        ("sex:male", {"sex": "male"}, True),
        ("sex:Male", {"sex": "male"}, False),
        ("sex : male", {"sex": "male"}, True),
        ("-sex:male", {}, True),
        ("sex:*", {}, False),
        ("-sex:*", {}, True),
        ('diagnosis_3:"Basal cell carcinoma"', {"diagnosis_3": "Basal cell carcinoma"}, True),
        ("diagnosis_3:Melanoma*", {"diagnosis_3": "Melanoma metastasis"}, True),
        ('diagnosis_3:"*carcinoma"', {"diagnosis_3": "Basal cell carcinoma"}, True),
        ("diagnosis_3:*cell*", {"diagnosis_3": "Basal cell carcinoma"}, False),
        ("diagnosis_3:Bas*oma", {"diagnosis_3": "Basal cell carcinoma"}, False),
        ('mel_mitotic_index:"<1/mm^2"', {"mel_mitotic_index": "<1/mm^2"}, True),
        ("age_approx:50", {"age_approx": 50}, True),
        ("age_approx:[50 TO 70]", {"age_approx": 70}, True),
        ("age_approx:[50 TO 70}", {"age_approx": 70}, False),
        ("age_approx:{50 TO *]", {"age_approx": 50}, False),
        ("age_approx:[* TO *]", {"age_approx": 5}, True),
        ("age_approx:[* TO *]", {}, False),
        ("-age_approx:[50 TO 70]", {}, True),
        ("age_approx:*", {"age_approx": 0}, True),
        ("age_approx:[0 TO 90]", {"age_approx": "unknown"}, False),
        ("clin_size_long_diam_mm:3.5", {"clin_size_long_diam_mm": "3.50"}, True),
        ("melanocytic:true", {"melanocytic": True}, True),
        ("melanocytic:false", {}, False),
        ("-melanocytic:true", {}, True),
        ("public:true", {}, True),
        ("image_type:clinical", {}, False),
        # Implicit AND binds tighter than AND, AND tighter than OR.
        ("sex:male OR sex:female age_approx:50", {"sex": "male", "age_approx": 20}, True),
        ("sex:male OR sex:female AND age_approx:50", {"sex": "male", "age_approx": 20}, True),
        ("(sex:male OR sex:female) AND age_approx:50", {"sex": "male", "age_approx": 20}, False),
        ("((sex:male))", {"sex": "male"}, True),
    ],
)
def test_a_query_means_what_the_archive_makes_of_it(query, clinical, is_match):
    assert satisfies(record(**clinical), parse(query)) is is_match


@pytest.mark.parametrize(
    ("query", "meant"), [("sex:male age:50", "age_approx"), ("-imagetype:x", "image_type"), ("xyzzy:1", None)]
)
def test_an_unknown_field_is_named_with_what_was_probably_meant(query, meant):
    with pytest.raises(QueryError, match="unknown field") as refused:
        parse(query)
    assert str(refused.value).endswith(f"; did you mean {meant}?" if meant else "'xyzzy'")


def test_short_image_types_stand_for_the_clinical_ones():
    assert satisfies(record(image_type="clinical: close-up"), parse("image_type:clinical"))
    assert satisfies(record(image_type="clinical: overview"), parse("image_type:overview"))


def test_a_negated_suffix_excludes_by_prefix_as_upstream_does():
    expression = parse('-diagnosis_3:"*Nevus"')
    assert satisfies(record(diagnosis_3="Blue Nevus"), expression)
    assert not satisfies(record(diagnosis_3="Nevus, Acral"), expression)


@pytest.mark.parametrize(
    "query",
    [
        *(
            "created:2020",
            "created:[* TO *]",
            "attribution:x",
            "collections:1",
            "acquisition_day:1",
            "pixels_x:5",
        ),
        *(
            "age:50",
            "diagnosis:x",
            "anatom_site_general:x",
            "sex",
            "sex:",
            ":male",
            "sex:male AND",
            "AND sex:male",
        ),
        *("sex:male or sex:female", "sex:male and sex:female", "NOT sex:male", "!sex:male", "sex:'male'"),
        *(
            "(sex:male OR sex:female) age_approx:50",
            "sex:male (age_approx:50)",
            "-(sex:male)",
            "(sex:male",
            "sex:male)",
        ),
        *(
            "age_approx:>50",
            "age_approx:[50 to 70]",
            "age_approx:[50 70]",
            "age_approx:old",
            "age_approx:[50 TO 70",
        ),
        *(
            "melanocytic:True",
            'melanocytic:"true"',
            "melanocytic:yes",
            'sex:"male',
            "diagnosis_3:Melanoma, NOS",
            "()",
        ),
    ],
)
def test_what_the_archive_cannot_parse_is_refused(query):
    with pytest.raises(QueryError):
        parse(query)


@pytest.mark.parametrize(
    "query", ["age_approx:1e400", "age_approx:[0 TO 1e999]", "hairy:true", "color_tint:blue"]
)
def test_what_breaks_the_archive_breaks_here(query):
    with pytest.raises(QueryCrashError):
        parse(query)


TOKENS = [*("sex", "age_approx", "melanocytic", "5", "male", "true"), *':-()[]{}*" ', "AND", "OR", "TO"]


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(TOKENS)).map("".join)))
def test_any_text_is_an_expression_or_refused(query):
    try:
        expression = parse(query)
    except (QueryError, QueryCrashError):
        return
    assert satisfies(record(sex="male", age_approx=5), expression) in (True, False)


def test_a_query_nested_too_deeply_is_refused():
    with pytest.raises(QueryError):
        parse("(" * 4000 + "sex:male" + ")" * 4000)


@pytest.mark.parametrize(
    "query",
    [
        *(
            "image_type:dermoscopic",
            "-image_type:dermoscopic",
            "isic_id:ISIC_1*",
            "-isic_id:ISIC_1*",
            "isic_id:*3",
        ),
        *("isic_id:*", "isic_id:ISIC_9999999", "lesion_id:IL_0*", "copyright_license:CC-BY", "public:true"),
        *("age_approx:{50 TO 70]", "clin_size_long_diam_mm:[5 TO *]", "mel_thick_mm:*", "-melanocytic:true"),
        "isic_id:ISIC_1* sex:male OR isic_id:ISIC_2* AND -sex:*",
        '(diagnosis_3:"Basal cell carcinoma" OR diagnosis_3:"Squamous cell carcinoma*") AND image_type:dermoscopic',
        "rcm_case_id:*",
    ],
)
def test_searching_columns_finds_what_asking_each_record_finds(query):
    source = SyntheticSource(400, seed=3)
    holdings = Holdings(source, State(source=source.name))
    asked = [
        position
        for position in range(400)
        if satisfies(holdings.record(position, "http://archive"), parse(query))
    ]
    assert holdings.select(query)[0].tolist() == asked
