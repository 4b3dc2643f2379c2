import base64
import struct

import numpy as np

from serving.gateway.reply import encode


def test_float_rows_stay_numbers():
    row = np.array([0.5, -1.25], np.float32)
    assert encode(row, "float") is row


def test_base64_holds_little_endian_float32_on_any_machine():
    for order in ("<f4", ">f4"):
        encoded = encode(np.array([0.5, -1.25], order), "base64")
        assert struct.unpack("<2f", base64.b64decode(str(encoded))) == (0.5, -1.25)
