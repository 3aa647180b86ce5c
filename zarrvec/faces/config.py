"""Which codec pipeline does zarr use? Ours, from the first zarrvec store on, unless the user chose another."""

from typing import Final

from zarr.core.config import config

PIPELINE: Final = "zarrvec.faces.pipeline.ZarrVecCodecPipeline"
ZARR_DEFAULT: Final = "zarr.core.codec_pipeline.BatchedCodecPipeline"


def use_pipeline() -> None:
    """Make ours the configured pipeline if zarr's default one is.

    With another one all stays correct, at more requests.
    """
    if config.get("codec_pipeline.path") == ZARR_DEFAULT:
        config.set({"codec_pipeline.path": PIPELINE})
