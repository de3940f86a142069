"""Looking at runs: the store of telemetry, typed queries over its views, reports."""

from esper.karn.queries import growth_table as growth_table
from esper.karn.queries import learning_curve as learning_curve
from esper.karn.queries import outcomes as outcomes
from esper.karn.queries import run_overview as run_overview
from esper.karn.store import Store as Store
from esper.karn.store import StoreError as StoreError
from esper.karn.views.catalogue import view_statements as view_statements
