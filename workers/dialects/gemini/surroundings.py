"""What differs between the two homes of the format, AI Studio and Vertex AI."""

from __future__ import annotations

import re
from dataclasses import dataclass

from workers.paths import resource, versioned
from workers.provider import Provider

_YOUTUBE = r"^https://(www\.|m\.)?(youtube\.com/|youtu\.be/)"
_FOLDERS = ("models/", "tunedModels/", "publishers/", "endpoints/", "projects/")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """One home of the format."""

    # Of thought signatures: each home refuses the other's.
    issuer: str
    # Before the model's name in the path.
    version: str
    models: str
    # Addresses that the provider reads by itself; all other media has to be sent along.
    addresses: re.Pattern[str]
    readable: str
    # Fields of the body and of generationConfig that only this home knows.
    fields: frozenset[str]
    config_fields: frozenset[str]
    # The tier of service is a header, not a field.
    tier_header: str = ""
    # Google's own tools beside functions have to be announced.
    announces_hosted: bool = False

    def path(self, model: str, method: str, provider: Provider) -> str:
        """The path of a call; `model` may be a resource such as `tunedModels/mine`.

        The quirk `parent` is the resource that models belong to, with a slash at its end.
        """
        parent = "" if model.startswith("projects/") else provider.quirks.get("parent", "")
        if not model.startswith(_FOLDERS):
            model = self.models + model
        version = versioned(provider.base_url, self.version)
        return f"{version}/{parent}{resource(model)}:{method}"


AI_STUDIO = Surroundings(
    issuer="gemini",
    version="v1beta",
    models="models/",
    addresses=re.compile(
        _YOUTUBE + r"|^https://generativelanguage\.googleapis\.com/\w+/files/|^files/[\w-]+$"
    ),
    readable="files of the Files API and YouTube videos",
    fields=frozenset(),
    config_fields=frozenset({"enableEnhancedCivicAnswers"}),
    announces_hosted=True,
)
VERTEX_AI = Surroundings(
    issuer="vertex_ai",
    version="v1beta1",
    models="publishers/google/models/",
    addresses=re.compile(_YOUTUBE + r"|^gs://"),
    readable="gs:// objects and YouTube videos",
    fields=frozenset({"labels", "modelArmorConfig"}),
    config_fields=frozenset({"audioTimestamp", "modelSelectionConfig", "routingConfig"}),
    tier_header="x-vertex-ai-llm-shared-request-type",
)
