"""Parse signatures from text or terms, with known types only, and build their DSPy classes."""

from erlport_bridge.programs.signatures import constraints
from erlport_bridge.programs.signatures.field_names import Reserved
from erlport_bridge.programs.signatures.field_type import NO_DEFAULT, default_value
from erlport_bridge.programs.signatures.object_types import is_object, takes_nil
from erlport_bridge.programs.signatures.spec import (
    MAX_REMEMBERED_CHARACTERS,
    Field,
    SignatureSpec,
    build_signature,
    parse_signature,
)
from erlport_bridge.programs.signatures.type_parser import (
    KNOWN_TYPES,
)

__all__ = [
    "KNOWN_TYPES",
    "MAX_REMEMBERED_CHARACTERS",
    "NO_DEFAULT",
    "Field",
    "Reserved",
    "SignatureSpec",
    "build_signature",
    "constraints",
    "default_value",
    "is_object",
    "parse_signature",
    "takes_nil",
]
