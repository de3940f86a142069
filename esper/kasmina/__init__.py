"""Hosts that grow: slots, the life of seeds, blending, and growth as a transaction with the optimizer."""

from esper.kasmina.alpha_control import AlphaController as AlphaController
from esper.kasmina.blend import blend as blend
from esper.kasmina.blend import straight_through as straight_through
from esper.kasmina.config import GrowthConfig as GrowthConfig
from esper.kasmina.gates import evaluate_gate as evaluate_gate
from esper.kasmina.grad_probe import HostProbe as HostProbe
from esper.kasmina.grad_probe import LayerProbe as LayerProbe
from esper.kasmina.grad_probe import SlotProbe as SlotProbe
from esper.kasmina.grad_probe import probe as probe
from esper.kasmina.hosts import CNNHost as CNNHost
from esper.kasmina.hosts import CNNHostConfig as CNNHostConfig
from esper.kasmina.hosts import MLPHost as MLPHost
from esper.kasmina.hosts import MLPHostConfig as MLPHostConfig
from esper.kasmina.hosts import TransformerHost as TransformerHost
from esper.kasmina.hosts import TransformerHostConfig as TransformerHostConfig
from esper.kasmina.lifecycle import IllegalActionError as IllegalActionError
from esper.kasmina.model import MorphogeneticModel as MorphogeneticModel
from esper.kasmina.slot import SeedSlot as SeedSlot
from esper.kasmina.snapshot import Snapshot as Snapshot
from esper.kasmina.surgery import GrowthError as GrowthError
from esper.kasmina.surgery import GrowthTransaction as GrowthTransaction
from esper.kasmina.wrap import WrappedHost as WrappedHost
from esper.kasmina.wrap import wrap as wrap
from esper.leyline.host import WrapError as WrapError
from esper.leyline.layer_ops import BlueprintError as BlueprintError
