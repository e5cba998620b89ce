"""NIM's management paths, for what is built around NIM containers: its health paths are in `health`."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

import mosso
from mosso.server.context import Context

LICENSE = "Apache-2.0"


class ModelInfo(BaseModel):
    modelUrl: str = ""  # noqa: N815 - NIM's names; there is no registry that the model came from
    shortName: str  # noqa: N815


class LicenseInfo(BaseModel):
    """The license of this server; the model's is in its checkpoint."""

    name: str = LICENSE
    path: str = "LICENSE"
    url: str = "https://www.apache.org/licenses/LICENSE-2.0"


class MetadataResponse(BaseModel):
    id: str
    version: str
    licenseInfo: LicenseInfo  # noqa: N815
    modelInfo: list[ModelInfo]  # noqa: N815


class NimVersion(BaseModel):
    release: str
    api: str


def router(context: Context) -> APIRouter:
    routes = APIRouter(prefix="/v1", tags=["nim"])
    model = context.settings.api.model

    @routes.get("/metadata", operation_id="nimMetadata")
    async def metadata() -> MetadataResponse:
        """What is served, by what."""
        return MetadataResponse(
            id=model,
            version=mosso.__version__,
            licenseInfo=LicenseInfo(),
            modelInfo=[ModelInfo(shortName=model)],
        )

    @routes.get("/version", operation_id="nimVersion")
    async def version() -> NimVersion:
        """The server's version; the API's is that of OpenAI's paths."""
        return NimVersion(release=mosso.__version__, api="v1")

    @routes.get("/license", operation_id="nimLicense")
    async def license_info() -> LicenseInfo:
        """The server's license."""
        return LicenseInfo()

    return routes
