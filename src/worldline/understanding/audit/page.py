"""stub"""

from worldline.understanding.audit.evidence import Audit


def render_audit(found: Audit) -> str:
    """The page."""
    return str(found)
