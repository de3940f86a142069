"""What the policy tells about a decision fits the decision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from esper.leyline.actions import CAUSAL_MASK, HEAD_SIZES, STYLE_MEANING, FactoredAction, Head, LifecycleOp
from esper.leyline.alpha import BLENDING_METHODS, METHOD_OF_CURVE
from esper.leyline.rng import SeedTree
from esper.tamiyo import TamiyoPolicy
from esper.tamiyo.inspection import method_probs
from esper.tamiyo.registries import Registries
from tests.tamiyo.graphs import SMALL, random_batch


def make_policy() -> TamiyoPolicy:
    with SeedTree(0).torch_scope():
        policy = TamiyoPolicy(SMALL).eval()
        for name, parameter in policy.named_parameters():
            if "logits" in name or "score" in name or "risk_out" in name:
                torch.nn.init.normal_(parameter, std=0.5)
    return policy


POLICY = make_policy()


def test_inspecting_decides_as_acting_does() -> None:
    rng = np.random.default_rng(0)
    batch = random_batch(rng, 20)
    for noise in (None, rng.random((20, 8))):
        acted, inspected = POLICY.act(batch, noise), POLICY.inspect(batch, noise)
        for name in ("actions", "log_prob", "head_log_prob", "value"):
            np.testing.assert_array_equal(getattr(inspected, name), getattr(acted, name))


def test_probabilities_add_up_to_one_and_respect_the_masks() -> None:
    batch = random_batch(np.random.default_rng(1), 30)
    told = POLICY.inspect(batch)
    for name, width in (("op_probs", 6), ("slot_probs", 3), ("blueprint_probs", 32), ("blending_probs", 4), ("risk_probs", 5)):
        probabilities = getattr(told, name)
        assert probabilities.shape == (30, width)
        assert (probabilities >= 0).all()
        np.testing.assert_allclose(probabilities.sum(1), 1.0, atol=1e-5)
    assert (told.op_probs[~batch.masks.op] == 0).all()
    assert (told.blueprint_probs[~batch.masks.blueprint] == 0).all()
    slot_legal = batch.masks.slot[np.arange(30), told.actions[:, Head.OP]]
    waits = told.actions[:, Head.OP] == LifecycleOp.WAIT
    assert (told.slot_probs[~waits][~slot_legal[~waits]] == 0).all()


def test_confidence_is_the_probability_of_operation_and_slot() -> None:
    rng = np.random.default_rng(2)
    batch = random_batch(rng, 60)
    told = POLICY.inspect(batch, rng.random((60, 8)))
    for i, row in enumerate(told.actions):
        action = FactoredAction.from_row(row.tolist())
        expected = told.op_probs[i, action.op]
        if CAUSAL_MASK[action.op, Head.SLOT]:
            expected = expected * told.slot_probs[i, action.slot]
        assert told.confidence[i] == pytest.approx(expected, rel=1e-4)


def test_embeddings_have_the_widths_of_the_configuration() -> None:
    told = POLICY.inspect(random_batch(np.random.default_rng(3), 4))
    assert told.graph_embedding.shape == (4, SMALL.attention_dim)
    assert told.telemetry_embedding.shape == (4, 64)
    assert told.graph_embedding.dtype == np.float32


@pytest.mark.parametrize("head", [Head.STYLE, Head.ALPHA_CURVE])
def test_a_method_has_the_probability_of_its_curves(head: Head) -> None:
    details = torch.zeros(1, 6, 32)
    drawn = torch.rand(HEAD_SIZES[head]).softmax(0)
    details[0, head - 1, : len(drawn)] = drawn
    expected = dict.fromkeys(BLENDING_METHODS, 0.0)
    for index, probability in enumerate(drawn.tolist()):
        curve = list(STYLE_MEANING.values())[index][0] if head is Head.STYLE else list(METHOD_OF_CURVE)[index]
        expected[METHOD_OF_CURVE[curve]] += probability
    np.testing.assert_allclose(method_probs(details, head)[0].numpy(), list(expected.values()), rtol=1e-5)


def test_learning_risk_leaves_the_policy_alone() -> None:
    policy = make_policy()
    batch = random_batch(np.random.default_rng(4), 8)
    evaluation = policy.evaluate(batch, policy.act(batch, None).actions)
    evaluation.risk_logits.square().sum().backward()
    touched = {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert touched == {"risk_hidden.weight", "risk_hidden.bias", "risk_out.weight", "risk_out.bias"}


def test_select_action_remembers_the_likeliest_action() -> None:
    policy = make_policy()
    remembered = [policy.last_action]
    batch = random_batch(np.random.default_rng(5), 2)
    one = batch.select(np.array([1]))
    action = policy.select_action(one)
    assert [*remembered, policy.last_action] == [None, action]
    assert list(action) == policy.act(one, None).actions[0].tolist()
    with pytest.raises(ValueError, match="one graph, got 2"):
        policy.select_action(batch)


def test_tags_are_rows_of_the_registries() -> None:
    registries = Registries.standard(seeds=["gardener"])
    tags = {"layer_types": "conv2d", "seeds": "gardener", "activations": "never heard of"}
    encoded = POLICY.encode_tags(tags, registries)
    assert encoded == {"layer_types": registries.layer_types.index("conv2d"), "seeds": 1, "activations": 0}
    assert encoded["layer_types"] > 0


@pytest.mark.parametrize("num_slots", [3, 10, 100])
def test_the_same_weights_serve_any_number_of_slots(num_slots: int) -> None:
    batch = random_batch(np.random.default_rng(6), 3, num_slots=num_slots)
    told = POLICY.inspect(batch)
    assert told.slot_probs.shape == (3, num_slots)
    np.testing.assert_allclose(told.slot_probs.sum(1), 1.0, atol=1e-5)
    assert (told.actions[:, Head.SLOT] < num_slots).all()
