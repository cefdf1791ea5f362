"""LSMR: least squares with any operator, rectangular or indefinite."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from infprune.curvature.operator import LinearOperator
from infprune.errors import InputError
from infprune.solvers.contract import Outcome, Solution, columns


@dataclass(frozen=True)
class LSMR:
    r"""argmin_x |M x - b|^2 + damping^2 |x|^2 (Fong and Saunders 2011), one right-hand side after the other.

    Golub-Kahan bidiagonalisation; |M^T r| falls monotonically. Converged when |M^T r| <= rtol |M| |r| (a least-squares
    solution) or |r| <= rtol (|b| + |M| |x|) (a solution of M x = b). Two products per iteration, one with M^T.
    """

    rtol: float = 1e-8
    max_iterations: int = 1000
    damping: float = 0.0

    def init(self, operator: LinearOperator) -> "PreparedLSMR":
        """Nothing to prepare."""
        return PreparedLSMR(operator, self)


@dataclass(frozen=True)
class PreparedLSMR:
    """LSMR with its operator. `residual` of its solutions is the normal one, |M^T r| / (|M^T b|)."""

    operator: LinearOperator
    settings: LSMR

    def solve(self, rhs: Tensor) -> Solution:
        """Solve for each column."""
        B = columns(rhs).to(self.operator.dtype)
        found = [self._one(b) for b in B.T]
        X, counts = torch.stack([x for x, _, _ in found], dim=1), [n for _, n, _ in found]
        X = X[:, 0] if rhs.dim() == 1 else X
        error = self._normal_residual(X.reshape(self.operator.shape[1], -1), B)
        if all(done for _, _, done in found):
            return Solution(X, Outcome.CONVERGED, max(counts), error)
        return Solution(
            X,
            Outcome.STOPPED,
            max(counts),
            error,
            f"LSMR stopped after {max(counts)} iterations with a normal residual of {error:.1e}; allow more iterations "
            "or add a damping",
        )

    def _normal_residual(self, X: Tensor, B: Tensor) -> float:
        M, d = self.operator, self.settings.damping
        gap = M.T.matmat(B - M.matmat(X)) - d**2 * X
        scale = M.T.matmat(B).norm(dim=0).clamp_min(torch.finfo(B.dtype).tiny)
        return float((gap.norm(dim=0) / scale).max())

    def _one(self, b: Tensor) -> tuple[Tensor, int, bool]:
        M, MT, damping = self.operator, self.operator.T, self.settings.damping
        beta, u = _unit(b)
        alpha, v = _unit(MT.matvec(u))
        x = torch.zeros_like(v)
        if alpha * beta == 0:
            return x, 0, True
        h, hbar = v.clone(), torch.zeros_like(v)
        alphabar, zetabar = alpha, alpha * beta
        rho = rhobar = cbar = 1.0
        sbar = 0.0
        # of the estimates of |r|, |M| and |x|
        betadd, betad, rhodold, tautilde, thetatilde, zeta, d = beta, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0
        norm2, size = alpha**2, beta
        for count in range(1, self.settings.max_iterations + 1):
            beta, u = _unit(M.matvec(v) - alpha * u)
            alpha, v = _unit(MT.matvec(u) - beta * v)
            # rotations: of the damping, of the bidiagonal, of its product
            alphahat = (alphabar**2 + damping**2) ** 0.5
            chat, shat = alphabar / alphahat, damping / alphahat
            rhoold, rho = rho, (alphahat**2 + beta**2) ** 0.5
            c, s = alphahat / rho, beta / rho
            theta_new, alphabar = s * alpha, c * alpha
            rhobarold, zetaold = rhobar, zeta
            thetabar, rhotemp = sbar * rho, cbar * rho
            rhobar = (rhotemp**2 + theta_new**2) ** 0.5
            cbar, sbar = rhotemp / rhobar, theta_new / rhobar
            zeta, zetabar = cbar * zetabar, -sbar * zetabar
            hbar = h - (thetabar * rho / (rhoold * rhobarold)) * hbar
            x = x + (zeta / (rho * rhobar)) * hbar
            h = v - (theta_new / rho) * h
            # |r|, by the QR factors of the bidiagonal
            betaacute, betacheck = chat * betadd, -shat * betadd
            betahat, betadd = c * betaacute, -s * betaacute
            thetatildeold = thetatilde
            rhotildeold = (rhodold**2 + thetabar**2) ** 0.5
            ctilde, stilde = rhodold / rhotildeold, thetabar / rhotildeold
            thetatilde, rhodold = stilde * rhobar, ctilde * rhobar
            betad = -stilde * betad + ctilde * betahat
            tautilde = (zetaold - thetatildeold * tautilde) / rhotildeold
            taud = (zeta - thetatilde * tautilde) / rhodold
            d += betacheck**2
            rest = (d + (betad - taud) ** 2 + betadd**2) ** 0.5
            norm2 += beta**2 + alpha**2
            norm = norm2**0.5
            fits = rest <= self.settings.rtol * (size + norm * float(x.norm()))
            if fits or abs(zetabar) <= self.settings.rtol * norm * rest:
                return x, count, True
        return x, self.settings.max_iterations, False


def _unit(v: Tensor) -> tuple[float, Tensor]:
    length = float(v.norm())
    if not math.isfinite(length):
        raise InputError("products with the curvature are not finite; check weights and data for NaN")
    return length, v / length if length > 0 else v
