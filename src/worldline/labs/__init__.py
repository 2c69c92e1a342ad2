"""Labs: small Gymnasium environments with exact replay."""
