"""Define markers of content parts that only this process knows, so that text which a model wrote stays text.

DSPy writes an image, audio or a file into the text of a prompt between two markers, and turns everything between such
markers into a content part.
"""

from __future__ import annotations

import secrets
from typing import Final

#: DSPy's own markers.
PUBLIC_START: Final = "<<CUSTOM-TYPE-START-IDENTIFIER>>"
PUBLIC_END: Final = "<<CUSTOM-TYPE-END-IDENTIFIER>>"
#: The random text in both markers of this process.
SECRET: Final = secrets.token_hex(16)
SECRET_START: Final = f"<<CUSTOM-TYPE-START-{SECRET}>>"
SECRET_END: Final = f"<<CUSTOM-TYPE-END-{SECRET}>>"
