from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from esper.distributed.config import RunConfig, config_from
from esper.distributed.requests import evaluation_episodes, in_groups, search_episodes, training_round
from esper.leyline.rng import SeedTree
from esper.tolaria.tasks.base import Context
from esper.tolaria.tasks.registry import contexts, deal_contexts

CONTEXTS = (Context("digits8", "atten", 0.75), Context("digits8", "blind0", 1.0))


def make_config(num_envs: int, envs_per_actor: int) -> RunConfig:
    return config_from({"task": {"preset": "smoke"}, "rollout": {"num_envs": num_envs, "envs_per_actor": envs_per_actor}})


def test_a_round_has_one_episode_for_every_environment() -> None:
    groups = training_round(3, make_config(6, 2), SeedTree(0))
    assert sorted(request.env_id for group in groups for request in group) == list(range(6))
    assert {len(group) for group in groups} == {2}
    assert {(request.episode_idx, request.split) for group in groups for request in group} == {(3, "train")}


def test_environments_in_a_row_share_a_context_and_contexts_take_turns() -> None:
    config = config_from({"task": {"preset": "smoke"}, "rollout": {"num_envs": 8, "envs_per_actor": 4, "envs_per_context": 2}})
    rounds = [[request for group in training_round(index, config, SeedTree(0)) for request in group] for index in range(5)]
    for requests in rounds:
        assert [request.context for request in requests[::2]] == [request.context for request in requests[1::2]]
        assert sorted(request.env_id for request in requests) == list(range(8))
    played = Counter(request.context for requests in rounds for request in requests)
    assert set(played.values()) == {10}
    assert set(played) == set(contexts(config.task, "train"))
    members = {tuple(request.env_id for request in requests) for requests in rounds}
    assert len(members) > 1


def test_contexts_dealt_in_a_row_differ_in_their_tasks() -> None:
    config = config_from({"task": {"preset": "image-mix"}})
    for deck in range(6):
        dealt = deal_contexts(config.task, "train", SeedTree(1), first=10 * deck, count=10)
        assert {context.task for context in dealt[:5]} == {context.task for context in dealt[5:]}
        assert {len({context.width for context in half}) for half in (dealt[:5], dealt[5:])} == {1}


def test_rounds_and_environments_have_randomness_of_their_own() -> None:
    config, seeds = make_config(4, 2), SeedTree(0)
    drawn = [request.seeds.integer() for index in range(5) for group in training_round(index, config, seeds) for request in group]
    assert len(set(drawn)) == 20
    again = [request.seeds.integer() for index in range(5) for group in training_round(index, config, seeds) for request in group]
    assert again == drawn


def test_an_environments_episode_does_not_depend_on_how_many_share_an_actor() -> None:
    pairs, fours = (training_round(0, make_config(4, k), SeedTree(0)) for k in (2, 4))
    assert [request for group in pairs for request in group] == [request for group in fours for request in group]


def test_evaluation_plays_every_context_on_the_same_number_of_seeds() -> None:
    groups = evaluation_episodes(CONTEXTS, "eval", seeds_per_context=3, root=7, group_size=4)
    requests = [request for group in groups for request in group]
    assert [len(group) for group in groups] == [4, 2]
    assert [(request.context, request.episode_idx) for request in requests] == [(c, i) for c in CONTEXTS for i in range(3)]
    assert len({request.seeds.integer() for request in requests}) == 6


def test_equal_roots_pair_the_episodes_of_different_policies() -> None:
    first, again, other = (evaluation_episodes(CONTEXTS, "eval", seeds_per_context=2, root=root, group_size=2) for root in (7, 7, 8))
    assert first == again
    assert first != other


def test_evaluation_splits_share_no_randomness() -> None:
    drawn = [
        request.seeds.integer()
        for split in ("eval", "heldout")
        for group in evaluation_episodes(CONTEXTS, split, seeds_per_context=2, root=7, group_size=2)
        for request in group
    ]
    assert len(set(drawn)) == len(drawn)


def test_a_search_that_goes_on_plays_new_episodes() -> None:
    seeds = SeedTree(0)
    whole = [r.seeds.integer() for group in search_episodes(0, 6, seeds, 4) for r in group]
    halves = [r.seeds.integer() for first in (0, 3) for group in search_episodes(first, 3, seeds, 4) for r in group]
    assert whole == halves
    assert len(set(whole)) == 6


@settings(max_examples=30, deadline=None)
@given(items=st.lists(st.integers()), size=st.integers(1, 9))
def test_groups_keep_every_item_in_order(items: list[int], size: int) -> None:
    groups = in_groups(items, size)
    assert [item for group in groups for item in group] == items
    assert all(len(group) == size for group in groups[:-1])
    assert all(0 < len(group) <= size for group in groups)
