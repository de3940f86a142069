from __future__ import annotations

from esper.distributed.build import make_registries, registry_digests
from esper.tamiyo import GRAPH_SPEC
from esper.urza.catalogue import Catalogue

CATALOGUE = Catalogue.standard()


def test_a_blueprint_has_the_index_behind_its_place() -> None:
    blueprints = make_registries(CATALOGUE).blueprints
    for family in ("cnn", "transformer", "mlp"):
        for name in CATALOGUE.names(family):
            assert blueprints.index(name) == CATALOGUE.place(name) + 1


def test_checkpoints_vouch_for_everything_that_the_policy_knows_by_index() -> None:
    digests = registry_digests()
    assert digests == {"catalogue": CATALOGUE.digest, "graph": GRAPH_SPEC.digest, **make_registries(CATALOGUE).digests()}
    assert {"layer_types", "activations", "optimizer_families", "hazards", "seeds", "blueprints"} <= digests.keys()
