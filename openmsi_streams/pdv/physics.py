"""Formulas of shock physics, each with its source, and the uncertainties they pass on. SI units throughout."""

from __future__ import annotations

import math

from openmsi_streams.pdv.materials import Material


def spall_acoustic(m: Material, pullback: float) -> float:
    """Spall strength rho0 C0 du / 2 (Novikov, Divnov and Ivanov 1966), Pa."""
    return 0.5 * m.density * m.c0 * pullback


def spall_elastic_plastic(m: Material, pullback: float) -> float:
    """Spall strength rho0 CL du / (1 + CL / C0) (Romanchenko and Stepanov 1980), Pa."""
    return m.density * m.cl * pullback / (1 + m.cl / m.c0)


def spall_kanel(m: Material, pullback: float, thickness: float, fall: float, rebound: float) -> float:
    """Spall strength rho0 C0 (du + delta) / 2 with the correction for the front's distortion, Pa.

    delta = h (1 / C0 - 1 / CL) |u1 u2| / (|u1| + u2); h spall thickness (m), u1 and u2 the slopes of pull-back and
    rebound (m/s^2) (Kanel 2010; Antoun et al. 2003).
    """
    delta = thickness * (1 / m.c0 - 1 / m.cl) * abs(fall * rebound) / max(abs(fall) + abs(rebound), 1e-30)
    return 0.5 * m.density * m.c0 * (pullback + delta)


def strain_rate(m: Material, slope: float) -> float:
    """|du/dt| / (2 C0) during pull-back, 1/s (Antoun et al. 2003)."""
    return abs(slope) / (2 * m.c0)


def spall_thickness(m: Material, ring: float) -> float:
    """C0 dt / 2 for the period of the ringing, m."""
    return 0.5 * m.c0 * ring


def hel_stress(m: Material, velocity: float) -> float:
    """rho0 CL u_HEL / 2, Pa."""
    return 0.5 * m.density * m.cl * velocity


def peak_stress_acoustic(m: Material, velocity: float) -> float:
    """rho0 C0 u_fs / 2, Pa."""
    return 0.5 * m.density * m.c0 * velocity


def peak_stress(m: Material, velocity: float) -> float:
    """rho0 (C0 + S up) up with up = u_fs / 2 (Rankine-Hugoniot with Us = C0 + S up), Pa."""
    up = 0.5 * velocity
    return m.density * (m.c0 + m.s * up) * up


def impact_particle_velocity(target: Material, flyer: Material, velocity: float) -> float:
    """Particle velocity (m/s) in a target struck by a flyer: equal pressure and velocity at the contact.

    a up^2 + b up + c = 0 with a = rt St - rf Sf, b = rt Ct + rf Cf + 2 rf Sf V, c = -rf V (Cf + Sf V).
    """
    a = target.density * target.s - flyer.density * flyer.s
    b = target.density * target.c0 + flyer.density * flyer.c0 + 2 * flyer.density * flyer.s * velocity
    c = -flyer.density * velocity * (flyer.c0 + flyer.s * velocity)
    # This form of the root has no difference of like numbers, and holds for a = 0 (like materials).
    return -2 * c / (b + math.sqrt(max(0.0, b * b - 4 * a * c)))
