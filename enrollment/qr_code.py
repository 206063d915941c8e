"""A token's text as a QR code, for a device with a camera."""

from django.utils.safestring import SafeString, mark_safe
from qrcode.constants import ERROR_CORRECT_M
from qrcode.image.svg import SvgPathImage
from qrcode.main import QRCode


def qr_code(text: str) -> SafeString:
    """Return the QR code of a text as inline SVG of 180 pixels; nothing of the text stands in the markup itself."""
    code = QRCode(error_correction=ERROR_CORRECT_M, image_factory=SvgPathImage, border=2)
    code.add_data(text)
    drawing = code.make_image(attrib={"role": "img", "aria-label": "QR code of the token"})
    element = drawing.get_image()
    element.set("width", "180")
    element.set("height", "180")
    return mark_safe(drawing.to_string(encoding="unicode"))  # noqa: S308 - the path is drawn from bits, not from text
