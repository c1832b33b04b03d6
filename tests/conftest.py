"""Settings that every test shares."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "nmsim",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("nmsim")
