"""What a recurrence does to gradients and carries: how far they reach, and where gates are stuck.

Each takes the arguments of ``rnnjax.scan`` and has a ``plot_…`` for what it returns.
"""

from rnnjax.diagnostics.gates import GateSaturation, gate_saturation
from rnnjax.diagnostics.gradients import GradientNorms, gradient_norms
from rnnjax.diagnostics.horizon import MemoryHorizon, memory_horizon
from rnnjax.diagnostics.lyapunov import (
    LyapunovExponents,
    growth_rates,
    lyapunov_exponents,
    singular_values,
)
from rnnjax.diagnostics.plots import (
    plot_gate_saturation,
    plot_gradient_norms,
    plot_growth_rates,
    plot_lyapunov_exponents,
    plot_memory_horizon,
    plot_singular_values,
)

__all__ = [
    "GateSaturation",
    "GradientNorms",
    "LyapunovExponents",
    "MemoryHorizon",
    "gate_saturation",
    "gradient_norms",
    "growth_rates",
    "lyapunov_exponents",
    "memory_horizon",
    "plot_gate_saturation",
    "plot_gradient_norms",
    "plot_growth_rates",
    "plot_lyapunov_exponents",
    "plot_memory_horizon",
    "plot_singular_values",
    "singular_values",
]
