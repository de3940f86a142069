"""SQL views over the event tables; `catalogue` reads them."""

from esper.karn.views.catalogue import view_statements as view_statements
