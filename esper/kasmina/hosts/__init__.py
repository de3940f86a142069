"""Host networks that Esper ships."""

from esper.kasmina.hosts.cnn import CNNHost as CNNHost
from esper.kasmina.hosts.cnn import CNNHostConfig as CNNHostConfig
from esper.kasmina.hosts.mlp import MLPHost as MLPHost
from esper.kasmina.hosts.mlp import MLPHostConfig as MLPHostConfig
from esper.kasmina.hosts.transformer import TransformerHost as TransformerHost
from esper.kasmina.hosts.transformer import TransformerHostConfig as TransformerHostConfig
