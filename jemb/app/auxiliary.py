from jemb.app.models import make_encoder as make_auxiliary_encoder  # noqa: F401
