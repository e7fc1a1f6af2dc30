//! Exceptions as values.

/// Exception vectors (SDM vol. 3, table 6-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // the names are the manual's
pub enum Vector {
    De = 0,
    Db = 1,
    Nmi = 2,
    Bp = 3,
    Of = 4,
    Br = 5,
    Ud = 6,
    Nm = 7,
    Df = 8,
    Ts = 10,
    Np = 11,
    Ss = 12,
    Gp = 13,
    Pf = 14,
    Mf = 16,
    Ac = 17,
    Mc = 18,
    Xm = 19,
}

impl Vector {
    /// Whether the exception pushes an error code (outside real mode).
    pub fn has_error_code(self) -> bool {
        use Vector::{Ac, Df, Gp, Np, Pf, Ss, Ts};
        matches!(self, Df | Ts | Np | Ss | Gp | Pf | Ac)
    }
}

/// An exception to be delivered to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// Which one.
    pub vector: Vector,
    /// Error code, 0 where the vector has none.
    pub code: u32,
    /// For #PF, the linear address that goes to CR2; for #DB, the DR6 bits to set.
    pub address: u64,
}

impl Exception {
    /// An exception without error code or address.
    pub fn new(vector: Vector) -> Self {
        Self {
            vector,
            code: 0,
            address: 0,
        }
    }
    /// #GP with an error code.
    pub fn gp(code: u32) -> Self {
        Self {
            vector: Vector::Gp,
            code,
            address: 0,
        }
    }
    /// #UD.
    pub fn ud() -> Self {
        Self::new(Vector::Ud)
    }
    /// #SS with an error code.
    pub fn ss(code: u32) -> Self {
        Self {
            vector: Vector::Ss,
            code,
            address: 0,
        }
    }
    /// #NP with an error code.
    pub fn np(code: u32) -> Self {
        Self {
            vector: Vector::Np,
            code,
            address: 0,
        }
    }
    /// #TS with an error code.
    pub fn ts(code: u32) -> Self {
        Self {
            vector: Vector::Ts,
            code,
            address: 0,
        }
    }
    /// #DB with DR6 bits.
    pub fn db(dr6: u64) -> Self {
        Self {
            address: dr6,
            ..Self::new(Vector::Db)
        }
    }
    /// #PF at `address`.
    pub fn pf(address: u64, code: u32) -> Self {
        Self {
            vector: Vector::Pf,
            code,
            address,
        }
    }
}

/// Result of anything that may end in a guest exception.
pub type Fault<T = ()> = Result<T, Exception>;
