"""Token sequences whose last position asks for an answer, drawn by rules that say what a network must be able to compute."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from esper.tolaria.data import Dataset
from esper.tolaria.tasks.parts import draw_parts

if TYPE_CHECKING:
    from esper.leyline.rng import SeedTree
    from esper.tolaria.tasks.base import SampleCounts
    from esper.tolaria.tasks.parts import Sampler, Samples

NUM_KEYS = 4
NUM_VALUES = 8
NUM_PAIRS = 3
RECALL_LENGTH = 16
RECALL_VOCAB = NUM_KEYS + NUM_VALUES + 1
"""Keys, values, and a filler."""
MODULUS = 11
MARKOV_STATES = 8
MARKOV_LENGTH = 12
_MARKOV_SHARPNESS = 0.85
"""Share of steps that follow the rule."""


def recall(count: int, rng: np.random.Generator) -> Samples:
    """Class = the value that followed the last token's earlier occurrence: key–value pairs among fillers, then a key.

    A position must first join a value to the key before it, and then be found by its key: causal mixing of
    neighbours, followed by attention. Either alone can only guess among the values that it sees.
    """
    filler = NUM_KEYS + NUM_VALUES
    keys = rng.permuted(np.tile(np.arange(NUM_KEYS), (count, 1)), axis=1)[:, :NUM_PAIRS]
    values = rng.integers(NUM_VALUES, size=(count, NUM_PAIRS))
    room = RECALL_LENGTH - 1 - 2 * NUM_PAIRS
    gaps = rng.permuted(np.tile(np.arange(room + NUM_PAIRS), (count, 1)), axis=1)[:, :NUM_PAIRS]
    start = np.sort(gaps, axis=1) + np.arange(NUM_PAIRS)
    row = np.arange(count)
    tokens = np.full((count, RECALL_LENGTH), filler)
    tokens[row[:, None], start] = keys
    tokens[row[:, None], start + 1] = NUM_KEYS + values
    asked = rng.integers(NUM_PAIRS, size=count)
    tokens[:, -1] = keys[row, asked]
    return tokens, values[row, asked]


def modadd(count: int, rng: np.random.Generator) -> Samples:
    """Class = (a + b) mod 11, from the tokens a, b and a question mark.

    A network must bring both to one position and mix them by a nonlinearity. The 121 sums are all seen in training, and the
    attention of a host suffices: here growth only costs its rent.
    """
    terms = rng.integers(MODULUS, size=(count, 2))
    question = np.full((count, 1), MODULUS)
    return np.concatenate([terms, question], axis=1), terms.sum(1) % MODULUS


def markov_rule(rng: np.random.Generator) -> np.ndarray:
    """Successor [8, 8] of every two states; each column is a permutation, so one state alone tells nothing."""
    return rng.permuted(np.tile(np.arange(MARKOV_STATES)[:, None], (1, MARKOV_STATES)), axis=0)


def markov(count: int, rng: np.random.Generator, *, rule: np.ndarray) -> Samples:
    """Class = the next state of a chain whose successor depends on the last two states, and on chance one time in seven.

    A network must see the token before the last.
    """
    states = rng.integers(MARKOV_STATES, size=(count, MARKOV_LENGTH + 1))
    follows = rng.random(states.shape) < _MARKOV_SHARPNESS
    for t in range(2, MARKOV_LENGTH + 1):
        states[:, t] = np.where(follows[:, t], rule[states[:, t - 2], states[:, t - 1]], states[:, t])
    return states[:, :-1], states[:, -1]


def make_tokens(counts: SampleCounts, seeds: SeedTree, *, sampler: Sampler, vocab_size: int, num_classes: int) -> Dataset:
    """Sequences of one rule; training, validation and test data come from three separate nodes of the tree."""
    sequences, (train_y, val_y, test_y) = draw_parts(counts, seeds, sampler)
    train_x, val_x, test_x = (torch.from_numpy(part.astype(np.int64)) for part in sequences)
    return Dataset(train_x, train_y, val_x, val_y, test_x, test_y, num_classes=num_classes, kind="tokens", vocab_size=vocab_size)


def make_markov(counts: SampleCounts, seeds: SeedTree) -> Dataset:
    """Draw the chain's rule, which the parts share, and then the parts."""
    rule = markov_rule(seeds.child("rule").numpy())
    return make_tokens(counts, seeds, sampler=partial(markov, rule=rule), vocab_size=MARKOV_STATES, num_classes=MARKOV_STATES)


make_recall = partial(make_tokens, sampler=recall, vocab_size=RECALL_VOCAB, num_classes=NUM_VALUES)
make_modadd = partial(make_tokens, sampler=modadd, vocab_size=MODULUS + 1, num_classes=MODULUS)
