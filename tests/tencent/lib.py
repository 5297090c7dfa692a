"""What the tests of the wire share."""

TOKEN = "xxxxyyyy"
REQUEST_TIME = "1669872112"
SIGN = "17773bc39a671d7b9aa835458704d2a6db81360a5940292b587d6d760d484061"  # the vendor's published vector
