"""Every solver and guidance keeps the contract of its kind."""

from __future__ import annotations

from ovikit.testing import GuidanceContract, SolverContract


class TestEuler(SolverContract):
    component = "euler"


class TestHeun(SolverContract):
    component = "heun"


class TestDpmPlusPlus2M(SolverContract):
    component = "dpmpp-2m"


class TestUniPC(SolverContract):
    component = "unipc"
    order_within = 3  # its corrector adds one where the last step does not take it back


class TestCfg(GuidanceContract):
    component = "cfg"
    options = {"skip_layers": [1]}  # noqa: RUF012
