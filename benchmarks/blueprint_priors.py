"""Refits the prior of blueprints' parameter counts to the catalogue; its values stand in `esper.tamiyo.norms`.

python -m benchmarks.blueprint_priors
"""

from __future__ import annotations

import math
import statistics

from esper.urza.catalogue import STANDARD, Catalogue

WIDTHS = (8, 16, 32, 64, 128, 256, 512)
POSITIONS = 64


def parameter_count_prior() -> tuple[float, float]:
    """Mean and standard deviation of log(1 + parameters) over every blueprint of every family at every width."""
    catalogue = Catalogue.standard()
    logs = [
        math.log1p(catalogue.spec(blueprint.name, blueprint.family, width, POSITIONS).num_parameters)
        for blueprint in STANDARD
        for width in WIDTHS
    ]
    return statistics.fmean(logs), statistics.pstdev(logs)


def main() -> None:
    mean, std = parameter_count_prior()
    print(f"PARAMETER_COUNT = Prior({mean:.2f}, {std:.2f}, is_log=True)")


if __name__ == "__main__":
    main()
