"""The policy as the learner sees it: what it samples it can re-evaluate, and only what matters counts."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.leyline.actions import CAUSAL_MASK, HEAD_SIZES, FactoredAction, Head, LifecycleOp
from esper.leyline.load import dump, load
from esper.leyline.masks import ActionMasks, explain_illegal
from esper.leyline.rng import SeedTree
from esper.leyline.uncompiled import AdamW
from esper.tamiyo import GraphBuilder, ProbabilityFloors, TamiyoGNNConfig, TamiyoPolicy
from esper.tamiyo.registries import Registries, RegistryError
from tests.tamiyo.graphs import SMALL, random_batch, random_masks
from tests.tamiyo.reports import LIMITS, STEPS_PER_EPOCH, busy_report, make_report, make_seed

if TYPE_CHECKING:
    from esper.leyline.graph import GraphBatch
    from esper.leyline.ports import TrainablePolicy


def make_policy(config: TamiyoGNNConfig = SMALL, *, spread: float = 0.5) -> TamiyoPolicy:
    """A policy whose last layers are far from their small start, so that choices differ."""
    with SeedTree(0).torch_scope():
        policy = TamiyoPolicy(config).eval()
        for name, parameter in policy.heads.named_parameters():
            if "logits" in name or "score" in name:
                torch.nn.init.normal_(parameter, std=spread)
    return policy


def open_masks(num_graphs: int, num_slots: int) -> ActionMasks:
    masks = random_masks(np.random.default_rng(0), num_graphs, num_slots)
    return ActionMasks(*(np.ones_like(getattr(masks, f.name)) for f in fields(ActionMasks)))


def test_evaluate_gives_the_log_probabilities_that_act_gave() -> None:
    policy = make_policy()
    rng = np.random.default_rng(0)
    batch = random_batch(rng, 24)
    output = policy.act(batch, rng.random((24, 8)))
    evaluation = policy.evaluate(batch, output.actions)
    np.testing.assert_allclose(evaluation.log_prob.detach(), output.log_prob, atol=1e-6)
    np.testing.assert_allclose(evaluation.head_log_prob.detach(), output.head_log_prob, atol=1e-6)
    np.testing.assert_allclose(evaluation.value.detach(), output.value, atol=1e-6)
    np.testing.assert_allclose(output.head_log_prob.sum(1), output.log_prob, rtol=1e-5)


def test_shapes_and_types() -> None:
    policy = make_policy()
    rng = np.random.default_rng(1)
    batch = random_batch(rng, 5, num_slots=4)
    output = policy.act(batch, rng.random((5, 8)))
    assert (output.actions.shape, output.actions.dtype.name) == ((5, 8), "int64")
    assert (output.log_prob.shape, output.log_prob.dtype.name) == ((5,), "float32")
    assert (output.head_log_prob.shape, output.value.shape) == ((5, 8), (5,))
    evaluation = policy.evaluate(batch, output.actions)
    assert evaluation.entropy.shape == evaluation.num_legal.shape == (5, 8)
    assert evaluation.risk_logits.shape == (5, 5)


def test_a_batch_equals_its_graphs_one_by_one() -> None:
    policy = make_policy()
    rng = np.random.default_rng(2)
    batch = random_batch(rng, 6)
    noise = rng.random((6, 8))
    whole = policy.act(batch, noise)
    for i in range(6):
        single = policy.act(batch.select(np.array([i])), noise[i : i + 1])
        np.testing.assert_array_equal(single.actions[0], whole.actions[i])
        np.testing.assert_allclose(single.log_prob[0], whole.log_prob[i], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(single.value[0], whole.value[i], rtol=1e-5, atol=1e-5)


def test_heads_that_do_not_matter_count_for_nothing() -> None:
    policy = make_policy(spread=0.3)
    rng = np.random.default_rng(3)
    batch = random_batch(rng, 200)
    output = policy.act(batch, rng.random((200, 8)))
    used = CAUSAL_MASK[output.actions[:, Head.OP]]
    assert set(output.actions[:, Head.OP]) == set(LifecycleOp)
    assert (output.head_log_prob[~used] == 0).all()
    garbage = np.where(used, output.actions, 10_000)
    a, b = policy.evaluate(batch, output.actions), policy.evaluate(batch, garbage)
    for field in fields(a):
        torch.testing.assert_close(getattr(a, field.name), getattr(b, field.name), rtol=0, atol=0)


def test_permuting_the_slots_permutes_their_probabilities() -> None:
    policy = make_policy()
    rng = np.random.default_rng(4)
    batch = random_batch(rng, 1, num_slots=5)
    batch = replace(batch, masks=open_masks(1, 5))
    order = rng.permutation(5)
    place = np.argsort(order)
    edges = {
        e: np.stack([place[index[0]] if e[0] == "seed" else index[0], place[index[1]] if e[2] == "seed" else index[1]])
        for e, index in batch.edges.items()
    }
    moved = replace(batch, nodes=dict(batch.nodes) | {"seed": batch.nodes["seed"][order]}, edges=edges)

    def slot_log_probs(graphs: GraphBatch) -> np.ndarray:
        row = np.zeros((1, 8), dtype=np.int64)
        row[0, Head.OP] = LifecycleOp.PRUNE
        values = []
        for slot in range(5):
            row[0, Head.SLOT] = slot
            values.append(policy.evaluate(graphs, row).head_log_prob[0, Head.SLOT].item())
        return np.array(values)

    before = slot_log_probs(batch)
    assert np.ptp(before) > 0.01
    assert np.exp(before).sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(slot_log_probs(moved), before[order], atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.booleans())
def test_actions_are_legal_under_any_masks(seed: int, num_slots: int, greedy: bool) -> None:
    rng = np.random.default_rng(seed)
    batch = random_batch(rng, 3, num_slots=num_slots)
    output = POLICY.act(batch, None if greedy else rng.random((3, 8)))
    for i, row in enumerate(output.actions):
        masks = batch.masks.select(np.array([i]))
        action = FactoredAction.from_row(row.tolist())
        assert explain_illegal(action, masks) is None
        for head in Head:
            if head in HEAD_SIZES and CAUSAL_MASK[action.op, head]:
                assert getattr(masks, head.name.lower())[0, action[head]]
    assert np.isfinite(output.log_prob).all()


POLICY = make_policy()


def test_sampled_frequencies_match_joint_probabilities() -> None:
    rng = np.random.default_rng(5)
    one = random_batch(rng, 1)
    n = 4000
    batch = one.select(np.zeros(n, dtype=np.int64))
    output = make_policy(spread=0.8).act(batch, rng.random((n, 8)))
    keys, first, counts = np.unique(output.actions, axis=0, return_index=True, return_counts=True)
    expected = n * np.exp(output.log_prob[first].astype(np.float64))
    common = expected > 20
    assert len(keys) > 5
    assert common.sum() >= 3
    chi_square = ((counts - expected)[common] ** 2 / expected[common]).sum()
    assert chi_square < 3 * common.sum() + 10


def test_floors_hold_for_every_head() -> None:
    floors = ProbabilityFloors(op=0.05, slot=0.04, blueprint=0.01, style=0.03, tempo=0.02)
    policy = make_policy(replace(SMALL, probability_floors=floors), spread=50.0)
    rng = np.random.default_rng(6)
    batch = replace(random_batch(rng, 1), masks=open_masks(1, 3))
    for op in (LifecycleOp.GERMINATE, LifecycleOp.PRUNE):
        actions = np.stack([rng.integers(0, [3, 32, 4, 3, 3, 4, 6, 6]) for _ in range(64)])
        actions[:, Head.OP] = op
        log_prob = policy.evaluate(batch.select(np.zeros(64, dtype=np.int64)), actions).head_log_prob
        for head in (Head.OP, Head.SLOT, Head.BLUEPRINT, Head.STYLE, Head.TEMPO):
            if CAUSAL_MASK[op, head]:
                assert log_prob[:, head].exp().min().item() >= floors.of(head) * (1 - 1e-4)


def test_first_policy_is_nearly_uniform_but_for_its_bias_towards_some_operations() -> None:
    with SeedTree(1).torch_scope():
        policy = TamiyoPolicy(SMALL).eval()
    batch = replace(random_batch(np.random.default_rng(7), 1), masks=open_masks(1, 3))
    rows = np.zeros((6, 8), dtype=np.int64)
    rows[:, Head.OP] = np.arange(6)
    evaluation = policy.evaluate(batch.select(np.zeros(6, dtype=np.int64)), rows)
    probabilities = evaluation.head_log_prob[:, Head.OP].exp().detach().numpy()
    weights, floor = np.exp(SMALL.op_bias), SMALL.probability_floors.op
    np.testing.assert_allclose(probabilities, floor + (1 - 6 * floor) * weights / weights.sum(), atol=0.03)
    others = [h for h in Head if h is not Head.OP]
    assert evaluation.entropy[:, others].min() > 0.99


def test_entropy_is_zero_without_choice_and_one_legal_is_counted() -> None:
    masks = open_masks(2, 3)
    masks.op[0, 1:] = False
    masks.tempo[1, 1:] = False
    batch = replace(random_batch(np.random.default_rng(8), 2), masks=masks)
    evaluation = POLICY.evaluate(batch, np.zeros((2, 8), dtype=np.int64))
    assert (evaluation.entropy[0] == 0).all()
    assert (evaluation.num_legal[0] == 1).all()
    assert evaluation.entropy[1, Head.TEMPO] == 0
    assert evaluation.num_legal[1].tolist() == [3, 32, 4, 1, 3, 4, 6, 6]


def test_heads_keep_their_entropy_while_the_policy_waits() -> None:
    batch = replace(random_batch(np.random.default_rng(9), 1), masks=open_masks(1, 3))
    waiting = POLICY.evaluate(batch, np.zeros((1, 8), dtype=np.int64))
    assert (waiting.entropy[0] > 0).all()
    waiting.entropy[0, Head.SLOT].backward()
    assert POLICY.heads.slot_score.weight.grad is not None
    POLICY.zero_grad()


def test_every_parameter_learns_but_the_observers_projection() -> None:
    policy = make_policy()
    rng = np.random.default_rng(10)
    batch = random_batch(rng, 32)
    output = policy.act(batch, rng.random((32, 8)))
    e = policy.evaluate(batch, output.actions)
    (e.log_prob.sum() + e.entropy.sum() + e.value.sum() + e.risk_logits.sin().sum()).backward()
    silent = [name for name, p in policy.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == ["telemetry_out.weight", "telemetry_out.bias"]
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.grad is not None)


def test_what_acts_follows_the_optimizer() -> None:
    policy = make_policy()
    rng = np.random.default_rng(17)
    batch, noise = random_batch(rng, 12), rng.random((12, 8))
    before = policy.act(batch, noise)
    optimizer = AdamW(policy.parameters(), lr=0.05)
    evaluation = policy.evaluate(batch, before.actions)
    (evaluation.log_prob.sum() + evaluation.value.sum()).backward()
    optimizer.step()
    after = policy.act(batch, noise)
    judged = policy.evaluate(batch, after.actions)
    assert np.abs(after.value - before.value).min() > 0.01
    np.testing.assert_allclose(judged.value.detach(), after.value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(judged.head_log_prob.detach(), after.head_log_prob, rtol=1e-5, atol=1e-5)


def test_rescaled_values_are_the_old_ones_in_new_units_and_choices_stay() -> None:
    policy = make_policy()
    rng = np.random.default_rng(18)
    batch, noise = random_batch(rng, 12), rng.random((12, 8))
    before = policy.act(batch, noise)
    policy.rescale_value(0.25, -3.0)
    after = policy.act(batch, noise)
    np.testing.assert_allclose(after.value, 0.25 * before.value - 3.0, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after.actions, before.actions)
    np.testing.assert_array_equal(after.log_prob, before.log_prob)


def test_warming_up_leaves_the_mode_as_it_was() -> None:
    policy = make_policy()
    for is_training in (True, False):
        policy.train(is_training).warm_up()
        assert {module.training for module in policy.modules()} == {is_training}


def test_dropout_is_over_once_a_policy_is_told_to_evaluate() -> None:
    with SeedTree(0).torch_scope():
        policy = TamiyoPolicy(replace(SMALL, dropout=0.5))
        batch = random_batch(np.random.default_rng(0), 2)
        fresh = [policy.inspect(batch).value for _ in range(2)]
        policy.eval()
        settled = [policy.inspect(batch).value for _ in range(3)]
    assert (fresh[0] != fresh[1]).any()
    assert all((value == settled[0]).all() for value in settled)


def test_tags_stand_for_rows_that_the_policy_has() -> None:
    registries = Registries.standard(blueprints=["norm"])
    rows = TamiyoPolicy(SMALL).encode_tags({"layer_types": "head", "blueprints": "norm", "seeds": "stranger"}, registries)
    assert rows == {"layer_types": registries.layer_types.index("head"), "blueprints": 1, "seeds": 0}
    with pytest.raises(RegistryError, match="no registry 'nonsense'"):
        TamiyoPolicy(SMALL).encode_tags({"nonsense": "x"}, registries)
    small = TamiyoPolicy(replace(SMALL, layer_vocab=4))
    assert small.encode_tags({"layer_types": registries.layer_types.name(3)}, registries) == {"layer_types": 3}
    with pytest.raises(RegistryError, match="has 4 rows"):
        small.encode_tags({"layer_types": "head"}, registries)


def test_policy_gradient_raises_the_probability_of_a_rewarded_action() -> None:
    policy = make_policy(spread=0.05)
    batch = GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH).build([make_report(rng=np.random.default_rng(11))])
    wanted = np.array([[2, 5, 1, 2, 0, 0, 0, LifecycleOp.GERMINATE]])
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
    before = policy.evaluate(batch, wanted).log_prob.item()
    for _ in range(25):
        optimizer.zero_grad()
        (-policy.evaluate(batch, wanted).log_prob).sum().backward()
        optimizer.step()
    assert before < -4
    assert policy.evaluate(batch, wanted).log_prob.item() > -1


def test_the_policy_can_tell_slots_apart_by_what_grows_in_them() -> None:
    policy = make_policy()
    rng = np.random.default_rng(12)
    reports = [busy_report(rng) for _ in range(8)]
    batch = GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH).build(reports)
    output = policy.act(batch, None)
    legal = [explain_illegal(FactoredAction.from_row(a.tolist()), r.masks) for a, r in zip(output.actions, reports, strict=True)]
    assert legal == [None] * 8
    assert np.ptp(output.value) > 0


def test_wrong_number_of_seed_nodes_is_an_error() -> None:
    batch = random_batch(np.random.default_rng(13), 2, num_slots=3)
    with pytest.raises(ValueError, match="2 seed nodes"):
        POLICY.act(replace(batch, masks=open_masks(2, 2)), None)


def test_equal_seeds_give_equal_policies_and_weights_travel() -> None:
    def fresh(seed: int) -> TamiyoPolicy:
        with SeedTree(seed).torch_scope():
            return TamiyoPolicy(SMALL).eval()

    batch = random_batch(np.random.default_rng(14), 2)
    a, b, c = fresh(1), fresh(1), fresh(2)
    assert np.array_equal(a.act(batch, None).value, b.act(batch, None).value)
    assert not np.array_equal(a.act(batch, None).value, c.act(batch, None).value)
    c.load_state_dict(a.state_dict())
    assert np.array_equal(a.act(batch, None).value, c.act(batch, None).value)


def test_autocast_keeps_act_and_evaluate_in_step() -> None:
    policy = make_policy(replace(SMALL, has_autocast=True))
    rng = np.random.default_rng(15)
    batch = random_batch(rng, 6)
    output = policy.act(batch, rng.random((6, 8)))
    assert output.value.dtype == np.float32
    np.testing.assert_allclose(policy.evaluate(batch, output.actions).log_prob.detach(), output.log_prob, atol=1e-6)


def test_configuration_survives_the_loader() -> None:
    config = replace(SMALL, probability_floors=ProbabilityFloors(op=0.1))
    assert load(TamiyoGNNConfig, dump(config)) == config


def test_the_policy_meets_its_port() -> None:
    port: TrainablePolicy = POLICY
    batch = GraphBuilder(LIMITS, steps_per_epoch=STEPS_PER_EPOCH).build([make_report((make_seed(0), None, None))])
    assert port.act(batch, None).actions.shape == (1, 8)
