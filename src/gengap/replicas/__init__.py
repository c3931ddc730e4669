"""How this project's own networks were trained, and how those of the papers could be."""

from typing import Literal

STUDIES = {
    "cnnzoo": "gengap.replicas.cnnzoo:Zoo",
    "pgdl": "gengap.replicas.pgdl:PGDLTask",
    "demogen": "gengap.replicas.demogen:Grid",
    "genprob": "gengap.replicas.genprob:Family",
}
# Of the embedded replica, and of the published networks: their widths, images, epochs and number.
Scale = Literal["replica", "published"]
