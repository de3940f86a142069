"""Reports on a run: a picture, a table of policies, a Markdown file."""

from esper.karn.report.markdown import write_report as write_report
from esper.karn.report.plots import plot_run as plot_run
from esper.karn.report.table import PolicyRow as PolicyRow
from esper.karn.report.table import markdown_table as markdown_table
from esper.karn.report.table import policy_table as policy_table
