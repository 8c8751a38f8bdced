"""Splits by group: exact, disjoint, seeded, and the same in any order."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from dermagan_jax.data import splits
from dermagan_jax.data.splits import REST, SplitPlan, assign_splits, group_images
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES

NO_LINKS = np.zeros((0, 2), np.int64)


def lesions_of(sizes: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups of lesions with `sizes[class]` images each."""
    flat = [(label, size) for label, each in enumerate(sizes) for size in each]
    label = np.repeat([label for label, _ in flat], [size for _, size in flat])
    group = np.repeat(np.arange(len(flat)), [size for _, size in flat])
    return label, group


def count(split: np.ndarray, label: np.ndarray, name: str) -> list[int]:
    return [int(((split == name) & (label == each)).sum()) for each in range(4)]


def test_groups_join_lesions_and_links():
    lesions = ["a", None, "b", "a", None, "b", None]
    links = np.asarray([[1, 2], [4, 6]])
    assert group_images(lesions, links).tolist() == [0, 1, 1, 0, 4, 1, 4]


def test_images_without_lesion_and_links_stand_alone():
    assert group_images([None, None, ""], NO_LINKS).tolist() == [0, 1, 2]


def test_links_chain():
    links = np.asarray([[0, 1], [1, 2], [3, 4]])
    assert group_images([None] * 5, links).tolist() == [0, 0, 0, 3, 3]


sizes = st.lists(
    st.lists(st.integers(1, 6), min_size=12, max_size=25).map(lambda each: [*each, 1, 1, 1]),
    min_size=4,
    max_size=4,
)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(sizes, st.integers(1, 5), st.integers(0, 99))
def test_whole_groups_exact_test_and_nothing_lost(sizes, test_per_class, seed):
    label, group = lesions_of(sizes)
    split = assign_splits(label, group, plan=SplitPlan(test_per_class), seed=seed)
    for each in np.unique(group):
        assert len(set(split[group == each])) == 1
    assert count(split, label, "test") == [test_per_class] * 4
    assert set(split) == set(splits.SPLITS)
    again = assign_splits(label, group, plan=SplitPlan(test_per_class), seed=seed)
    np.testing.assert_array_equal(split, again)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.integers(0, 10_000))
def test_exact_where_only_some_choices_add_up(seed):
    # Threes and twos: taking whatever fits ends one short most of the time.
    label, group = lesions_of([[3] * 30 + [2] * 10] * 4)
    split = assign_splits(label, group, plan=SplitPlan(50), seed=seed)
    assert count(split, label, "test") == [50] * 4


def test_number_that_no_choice_gives_is_an_error():
    label, group = lesions_of([[2] * 20] * 4)
    with pytest.raises(DermaganError, match=r"actinic_keratosis: 5 test .* 20 lesions \(40 images"):
        assign_splits(label, group, plan=SplitPlan(5), seed=0)


def test_too_few_lesions_names_the_class():
    label, group = lesions_of([[1] * 20, [1] * 20, [1] * 20, [20]])
    with pytest.raises(DermaganError, match="melanoma"):
        assign_splits(label, group, plan=SplitPlan(5), seed=0)


def test_nothing_left_to_train_on_is_an_error():
    label, group = lesions_of([[1] * 10] * 4)
    with pytest.raises(DermaganError, match="leave none for"):
        assign_splits(label, group, plan=SplitPlan(10), seed=0)


def test_seeds_differ():
    label, group = lesions_of([[1] * 40] * 4)
    first, second = (assign_splits(label, group, plan=SplitPlan(10), seed=s) for s in (0, 1))
    assert (first != second).any()


def test_group_of_two_classes_stays_whole_and_out_of_the_test_split():
    label, group = lesions_of([[1] * 30] * 4)
    group[0], group[30] = 1000, 1000
    for seed in range(20):
        split = assign_splits(label, group, plan=SplitPlan(20), seed=seed)
        assert split[0] == split[30] != "test"


def test_caps_count_all_splits():
    label, group = lesions_of([[1] * 60] * 4)
    plan = SplitPlan(10, caps={"melanoma": 30, "basal_cell_carcinoma": 40})
    split = assign_splits(label, group, plan=plan, seed=0)
    assert count(split, label, "unused") == [0, 20, 0, 30]
    assert count(split, label, "test") == [10] * 4
    # 15% of the 50, 30, 50 and 20 that the test split leaves; 7.5 and 4.5 round to even.
    assert count(split, label, "validation") == [8, 4, 8, 3]
    assert count(split, label, "train") == [42, 26, 42, 17]


def test_rest_gives_all_that_is_left_to_the_test_split():
    label, group = lesions_of([[1] * 200, [1] * 300, [1] * 150, [1] * 900])
    plan = SplitPlan(REST, train_per_class=85)
    split = assign_splits(label, group, plan=plan, seed=0)
    assert count(split, label, "train") == [85] * 4
    assert count(split, label, "validation") == [15] * 4
    assert count(split, label, "test") == [100, 200, 50, 800]


def test_train_cap_leaves_images_unused():
    label, group = lesions_of([[1] * 100] * 4)
    plan = SplitPlan(10, train_per_class=17)
    split = assign_splits(label, group, plan=plan, seed=0)
    assert count(split, label, "train") == [17] * 4
    assert count(split, label, "validation") == [3] * 4
    assert count(split, label, "unused") == [70] * 4


def test_split_by_image_parts_lesions():
    label, group = lesions_of([[20] * 5] * 4)
    split = assign_splits(label, group, plan=SplitPlan(30, split_by="image"), seed=0)
    assert count(split, label, "test") == [30] * 4
    assert any(len(set(split[group == each])) > 1 for each in np.unique(group))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split_by": "patient"}, "split_by is 'patient'"),
        ({"validation_fraction": 0.0}, "validation_fraction"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"validation_fraction": "a"}, "validation_fraction is 'a'"),
        ({"test_per_class": 0}, "test_per_class"),
        ({"test_per_class": True}, "test_per_class"),
        ({"test_per_class": "most"}, "test_per_class"),
        ({"test_per_class": REST}, "needs train_per_class"),
        ({"train_per_class": -1}, "train_per_class"),
        ({"caps": {"melanoma": -4}}, "'melanoma' is -4"),
        ({"caps": {"melanoma": "many"}}, "'melanoma' is 'many'"),
        ({"caps": {"nevus": 5}}, "'nevus'"),
        ({"caps": 5}, "caps is 5"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(DermaganError, match=message):
        SplitPlan(**fields)


def test_every_class_draws_for_itself():
    # More melanomas must not change which basal cell carcinomas are tested.
    small, small_group = lesions_of([[1] * 30] * 4)
    large, large_group = lesions_of([[1] * 30] * 3 + [[1] * 60])
    first = assign_splits(small, small_group, plan=SplitPlan(5), seed=3)
    second = assign_splits(large, large_group, plan=SplitPlan(5), seed=3)
    np.testing.assert_array_equal(first[small < 3], second[large < 3])
    assert len(CLASSES) == 4
