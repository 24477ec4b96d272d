"""A Bayesian search: decided by its seed, kept as it goes, gone on with after a kill, and blind to test."""

from dataclasses import replace
from typing import Any

import pytest
from catalogue import declare, rows_of
from sqlalchemy import text

from lesion_tasks import UnusableInputError
from lesion_tasks.catalog import VARIANTS, SearchRange, SearchSpace
from lesion_tasks.catalog.shortened import adjust
from lesion_tasks.database.connection import engine_for
from lesion_tasks.settings import Settings
from lesion_tasks.training import search
from lesion_tasks.training.search import Trial, propose, tune_variant
from lesion_tasks.training.train import choose_variants, train_variant
from lesion_tasks.workspace import open_workspace

RANGES = (
    SearchRange(field="learning_rate", low=1e-4, high=1e-1, is_log=True),
    SearchRange(field="dropout_rate", low=0.0, high=0.5),
    SearchRange(field="batch_size", low=8, high=64, is_whole=True),
)


def searched(**changed: Any) -> str:
    return declare("metadata_mlp", search=SearchSpace(ranges=RANGES, max_epochs=1), **changed)


def trials(settings: Settings) -> list[Any]:
    return rows_of(settings, "SELECT number, parameters, val_auc, reason FROM search_trial ORDER BY number")


def execute(settings: Settings, statement: str) -> None:
    with engine_for(settings.database_url or "").begin() as connection:
        connection.execute(text(statement))


def test_a_killed_search_goes_on_and_ends_like_one_that_was_not(
    small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = searched()
    undisturbed = tune_variant(open_workspace(), name, n_trials=4)
    made = trials(small)
    assert [number for number, *_ in made] == [0, 1, 2, 3]
    assert len({parameters["learning_rate"] for _, parameters, *_ in made}) == 4
    execute(small, "DELETE FROM search_trial")

    record = search._record_trial

    def die_in_the_third(engine: Any, search_id: str, trial: Trial) -> None:
        if trial.number == 2:
            raise KeyboardInterrupt
        record(engine, search_id, trial)

    with monkeypatch.context() as patch:
        patch.setattr(search, "_record_trial", die_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            tune_variant(open_workspace(), name, n_trials=4)
    assert trials(small) == made[:2]
    assert tune_variant(open_workspace(), name, n_trials=4) == undisturbed
    assert trials(small) == made


def test_a_search_never_opens_test(small: Settings) -> None:
    name = declare("smoke", search=SearchSpace(ranges=RANGES[:1], max_epochs=1))
    # Pictures that are gone cannot be looked at.
    execute(
        small,
        """DELETE FROM pixel_row WHERE sha256 NOT IN (
            SELECT i.sha256 FROM image i JOIN split_member m USING (isic_id)
            WHERE m.split = 'malignancy_natural' AND m.subset <> 'test')""",
    )
    assert 0 <= tune_variant(open_workspace(), name, n_trials=1)["val_auc"] <= 1
    with pytest.raises(UnusableInputError, match="pictures have no pixels"):
        train_variant(open_workspace(), name)


def test_a_training_that_asks_for_trials_learns_with_the_best_and_says_so(small: Settings) -> None:
    name = searched()
    training_id = train_variant(open_workspace(), name, n_trials=3)
    best = max(trials(small), key=lambda row: row.val_auc)
    ((recipe,),) = rows_of(small, "SELECT recipe FROM training")
    assert {field: recipe[field] for field in best.parameters} == best.parameters
    ((search_id,),) = rows_of(small, "SELECT search_id FROM search")
    assert recipe["search_id"] == search_id
    assert train_variant(open_workspace(), name, n_trials=3) == training_id
    assert len(trials(small)) == 3
    assert (
        train_variant(open_workspace(), name) != training_id
    )  # the variant as it is declared is another training


def test_bad_parameters_are_a_trial_with_a_reason_and_a_search_without_any_good_ones_ends(
    small: Settings,
) -> None:
    space = SearchSpace(ranges=(SearchRange(field="learning_rate", low=1e37, high=1e38),), max_epochs=1)
    name = declare("metadata_mlp", search=space)
    with pytest.raises(UnusableInputError, match=r"none of 2 trials gave an AUC.*expected a number"):
        tune_variant(open_workspace(), name, n_trials=2)
    assert all("expected a number" in row.reason and row.val_auc is None for row in trials(small))


def test_a_search_without_a_space_or_trials_is_refused(small: Settings) -> None:
    with pytest.raises(UnusableInputError, match="has no search space"):
        tune_variant(open_workspace(), declare("metadata_logistic"), n_trials=2)
    with pytest.raises(UnusableInputError, match="0 trials requested"):
        tune_variant(open_workspace(), searched(), n_trials=0)


def test_the_estimator_looks_where_it_was_good() -> None:
    made: list[Trial] = []
    for number in range(40):
        parameters = propose(RANGES[1:2], made, seed=1)
        made.append(
            Trial(number=number, parameters=parameters, val_auc=1 - 2 * abs(parameters["dropout_rate"] - 0.4))
        )
    late = [abs(t.parameters["dropout_rate"] - 0.4) for t in made[20:]]
    early = [abs(t.parameters["dropout_rate"] - 0.4) for t in made[:10]]
    assert sum(late) / 20 < sum(early) / 10 / 2


def test_a_range_that_is_none_or_of_no_field_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a range"):
        SearchRange(field="dropout_rate", low=0.5, high=0.5)
    with pytest.raises(ValueError, match="is not a range"):
        SearchRange(field="learning_rate", low=0.0, high=0.1, is_log=True)
    with pytest.raises(ValueError, match="search over unknown fields \\['nonsense'\\]"):
        replace(
            VARIANTS["smoke"],
            search=SearchSpace(ranges=(SearchRange(field="nonsense", low=0, high=1),)),
        )


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda v: v.name)
def test_every_variant_has_a_smoke_run_that_is_small_and_never_promotable(variant: Any) -> None:
    small = adjust(variant, is_smoke_run=True)
    assert small.max_epochs == 1 or small.members
    assert small.fine_tuning is None or small.fine_tuning.max_epochs == 1
    assert small.side_px is None or small.side_px == 32
    assert not small.is_promotable
    assert "is_promotable" in small.adjusted or not variant.is_promotable
    assert small.title.endswith("(rehearsal)")


def test_a_shortened_training_is_named_so_and_does_not_count_as_the_variant_s_own(small: Settings) -> None:
    name = declare("metadata_mlp", max_epochs=3)
    train_variant(open_workspace(), name, max_epochs=1)
    ((recipe,),) = rows_of(small, "SELECT recipe FROM training")
    assert recipe["adjusted"] == ["max_epochs"]
    assert recipe["title"].endswith("(at most 1 epoch)")
    assert rows_of(small, "SELECT count(*) FROM training_epoch") == [(1,)]
    assert choose_variants(open_workspace(), variants=[name]) == [name]
    train_variant(open_workspace(), name, max_epochs=7)  # no shorter than it is: the variant itself
    assert choose_variants(open_workspace(), variants=[name]) == []
    with pytest.raises(UnusableInputError, match="max_epochs is 0, expected at least 1"):
        train_variant(open_workspace(), name, max_epochs=0)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (
            {"variants": ["smoke"], "n_trials": 3},
            "3 search trials for smoke, without a search space; expected some of",
        ),
        (
            {"variants": ["unet_mobilenet_v3_eca"], "n_trials": 3, "is_smoke_run": True},
            "expected one of them",
        ),
    ],
)
def test_trials_that_mean_nothing_are_refused_before_anything_is_trained(
    settings: Settings, how: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnusableInputError, match=words):
        choose_variants(open_workspace(), policy="always", **how)


def test_what_trials_choose_is_not_set_beside_them(small: Settings) -> None:
    for changes in (
        {"learning.weight_decay": 0.1},
        {"learning": {"weight_decay": 0.1, "is_head_solved": True}},
    ):
        with pytest.raises(UnusableInputError, match="weight_decay: search trials choose that themselves"):
            train_variant(open_workspace(), "efficientnet_lite0_tuned", n_trials=2, changes=changes)
