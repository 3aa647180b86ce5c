"""How much Hypothesis explores: new examples on a developer's machine, the same ones every time in CI.

Name another profile with ``HYPOTHESIS_PROFILE=deep`` (before a release, after a change to the format or the engine) or
with pytest's own ``--hypothesis-profile``.
"""

import os

from hypothesis import HealthCheck, settings

# No deadlines: a shared machine, a real S3 server and fsync make the time of one example meaningless.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.register_profile("deep", settings.get_profile("dev"), max_examples=2_000)

settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))
