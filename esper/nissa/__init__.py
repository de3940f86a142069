"""Telemetry on its way: emitters at the producers, a wire format with identities, sinks at the other end.

Sinks live in `esper.nissa.sinks`, so that a producer loads no database.
"""

from esper.nissa.config import TelemetryConfig as TelemetryConfig
from esper.nissa.emitter import BufferedEmitter as BufferedEmitter
from esper.nissa.emitter import EmitterStats as EmitterStats
from esper.nissa.sinks.base import DurableSink as DurableSink
from esper.nissa.sinks.base import SinkUnavailableError as SinkUnavailableError
from esper.nissa.transport import InProcessTransport as InProcessTransport
from esper.nissa.transport import Transport as Transport
from esper.nissa.wire import decode as decode
