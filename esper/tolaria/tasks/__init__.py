"""Tasks: what hosts are trained on, and the presets that mix them."""

from esper.tolaria.tasks.base import Context as Context
from esper.tolaria.tasks.base import Episode as Episode
from esper.tolaria.tasks.base import SampleCounts as SampleCounts
from esper.tolaria.tasks.base import Split as Split
from esper.tolaria.tasks.base import Task as Task
from esper.tolaria.tasks.base import TaskPreset as TaskPreset
from esper.tolaria.tasks.base import parse_context as parse_context
from esper.tolaria.tasks.presets import find_preset as find_preset
from esper.tolaria.tasks.presets import presets as presets
from esper.tolaria.tasks.registry import contexts as contexts
from esper.tolaria.tasks.registry import make_episode as make_episode
