"""Labs of the exam: small Gymnasium environments with exact replay."""
