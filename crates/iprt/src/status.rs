//! Status codes as guests, logs and error texts name them (`VERR_*`, `VINF_*`).
//!
//! Names and values: the list in the VMMDev and shared-folder protocol description, which guests
//! see on the wire.

/// A status code: zero or positive for success (`VINF_*`), negative for failure (`VERR_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Status(pub i32);

impl Status {
    /// Whether this is a success or informational code.
    pub const fn is_success(self) -> bool {
        self.0 >= 0
    }

    /// Whether this is a failure.
    pub const fn is_failure(self) -> bool {
        self.0 < 0
    }

    /// The name (`VERR_NOT_FOUND`) if the code is a known one.
    pub fn name(self) -> Option<&'static str> {
        NAMES
            .iter()
            .find(|(status, _)| *status == self)
            .map(|(_, name)| *name)
    }

    /// The code of a name, if it is a known one.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(status, _)| *status)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "status {}", self.0),
        }
    }
}

/// The closest code for a system error.
impl From<&std::io::Error> for Status {
    fn from(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        match error.kind() {
            K::NotFound => VERR_FILE_NOT_FOUND,
            K::PermissionDenied => VERR_ACCESS_DENIED,
            K::AlreadyExists => VERR_ALREADY_EXISTS,
            K::NotADirectory => VERR_NOT_A_DIRECTORY,
            K::IsADirectory => VERR_IS_A_DIRECTORY,
            K::DirectoryNotEmpty => VERR_DIR_NOT_EMPTY,
            K::ReadOnlyFilesystem => VERR_WRITE_PROTECT,
            K::StorageFull | K::QuotaExceeded => VERR_DISK_FULL,
            K::FileTooLarge => VERR_FILE_TOO_BIG,
            K::ResourceBusy => VERR_RESOURCE_BUSY,
            K::CrossesDevices => VERR_NOT_SAME_DEVICE,
            K::InvalidFilename => VERR_INVALID_NAME,
            K::InvalidInput => VERR_INVALID_PARAMETER,
            K::TimedOut => VERR_TIMEOUT,
            K::Interrupted => VERR_INTERRUPTED,
            K::WouldBlock => VERR_TRY_AGAIN,
            K::UnexpectedEof => VERR_EOF,
            K::BrokenPipe => VERR_BROKEN_PIPE,
            K::Unsupported => VERR_NOT_SUPPORTED,
            K::OutOfMemory => VERR_NO_MEMORY,
            K::ConnectionRefused => VERR_NET_CONNECTION_REFUSED,
            K::ConnectionReset => VERR_NET_CONNECTION_RESET_BY_PEER,
            K::ConnectionAborted => VERR_NET_CONNECTION_ABORTED,
            K::NotConnected => VERR_NET_NOT_CONNECTED,
            K::AddrInUse => VERR_NET_ADDRESS_IN_USE,
            K::AddrNotAvailable => VERR_NET_ADDRESS_NOT_AVAILABLE,
            K::HostUnreachable => VERR_NET_HOST_UNREACHABLE,
            K::NetworkUnreachable => VERR_NET_UNREACHABLE,
            K::NetworkDown => VERR_NET_DOWN,
            _ => VERR_UNRESOLVED_ERROR,
        }
    }
}

macro_rules! codes {
    ($($name:ident = $value:literal,)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` (", stringify!($value), ").")]
            pub const $name: Status = Status($value);
        )*
        const NAMES: &[(Status, &str)] = &[$(($name, stringify!($name))),*];
    };
}

codes! {
    VINF_SUCCESS = 0,
    VERR_GENERAL_FAILURE = -1,
    VERR_INVALID_PARAMETER = -2,
    VERR_INVALID_MAGIC = -3,
    VERR_INVALID_HANDLE = -4,
    VERR_LOCK_FAILED = -5,
    VERR_INVALID_POINTER = -6,
    VERR_IDT_FAILED = -7,
    VERR_NO_MEMORY = -8,
    VERR_ALREADY_LOADED = -9,
    VERR_PERMISSION_DENIED = -10,
    VERR_VERSION_MISMATCH = -11,
    VERR_NOT_IMPLEMENTED = -12,
    VERR_INVALID_FLAGS = -13,
    VERR_NOT_EQUAL = -18,
    VERR_NOT_SYMLINK = -19,
    VERR_NO_TMP_MEMORY = -20,
    VERR_INVALID_FMODE = -21,
    VERR_WRONG_ORDER = -22,
    VERR_NO_TLS_FOR_SELF = -23,
    VERR_FAILED_TO_SET_SELF_TLS = -24,
    VERR_NO_CONT_MEMORY = -26,
    VERR_NO_PAGE_MEMORY = -27,
    VERR_THREAD_IS_DEAD = -29,
    VERR_THREAD_NOT_WAITABLE = -30,
    VERR_PAGE_TABLE_NOT_PRESENT = -31,
    VERR_INVALID_CONTEXT = -32,
    VERR_TIMER_BUSY = -33,
    VERR_ADDRESS_CONFLICT = -34,
    VERR_UNRESOLVED_ERROR = -35,
    VERR_INVALID_FUNCTION = -36,
    VERR_NOT_SUPPORTED = -37,
    VERR_ACCESS_DENIED = -38,
    VERR_INTERRUPTED = -39,
    VERR_TIMEOUT = -40,
    VERR_BUFFER_OVERFLOW = -41,
    VERR_TOO_MUCH_DATA = -42,
    VERR_MAX_THRDS_REACHED = -43,
    VERR_MAX_PROCS_REACHED = -44,
    VERR_SIGNAL_REFUSED = -45,
    VERR_SIGNAL_PENDING = -46,
    VERR_SIGNAL_INVALID = -47,
    VERR_STATE_CHANGED = -48,
    VERR_INVALID_UUID_FORMAT = -49,
    VERR_PROCESS_NOT_FOUND = -50,
    VERR_PROCESS_RUNNING = -51,
    VERR_TRY_AGAIN = -52,
    VERR_PARSE_ERROR = -53,
    VERR_OUT_OF_RANGE = -54,
    VERR_NUMBER_TOO_BIG = -55,
    VERR_NO_DIGITS = -56,
    VERR_NEGATIVE_UNSIGNED = -57,
    VERR_NO_TRANSLATION = -58,
    VERR_NOT_FOUND = -78,
    VERR_INVALID_STATE = -79,
    VERR_OUT_OF_RESOURCES = -80,
    VERR_FILE_NOT_FOUND = -102,
    VERR_PATH_NOT_FOUND = -103,
    VERR_INVALID_NAME = -104,
    VERR_ALREADY_EXISTS = -105,
    VERR_TOO_MANY_OPEN_FILES = -106,
    VERR_SEEK = -107,
    VERR_NEGATIVE_SEEK = -108,
    VERR_SEEK_ON_DEVICE = -109,
    VERR_EOF = -110,
    VERR_READ_ERROR = -111,
    VERR_WRITE_ERROR = -112,
    VERR_WRITE_PROTECT = -113,
    VERR_SHARING_VIOLATION = -114,
    VERR_FILE_LOCK_FAILED = -115,
    VERR_FILE_LOCK_VIOLATION = -116,
    VERR_CANT_CREATE = -117,
    VERR_CANT_DELETE_DIRECTORY = -118,
    VERR_NOT_SAME_DEVICE = -119,
    VERR_FILENAME_TOO_LONG = -120,
    VERR_MEDIA_NOT_PRESENT = -121,
    VERR_MEDIA_NOT_RECOGNIZED = -122,
    VERR_FILE_NOT_LOCKED = -123,
    VERR_FILE_LOCK_LOST = -124,
    VERR_DIR_NOT_EMPTY = -125,
    VERR_NOT_A_DIRECTORY = -126,
    VERR_IS_A_DIRECTORY = -127,
    VERR_FILE_TOO_BIG = -128,
    VERR_NET_IO_ERROR = -400,
    VERR_NET_OUT_OF_RESOURCES = -401,
    VERR_NET_HOST_NOT_FOUND = -402,
    VERR_NET_PATH_NOT_FOUND = -403,
    VERR_NET_PRINT_ERROR = -404,
    VERR_NET_NO_NETWORK = -405,
    VERR_NET_NOT_UNIQUE_NAME = -406,
    VERR_NET_IN_PROGRESS = -436,
    VERR_NET_ALREADY_IN_PROGRESS = -437,
    VERR_NET_NOT_SOCKET = -438,
    VERR_NET_DEST_ADDRESS_REQUIRED = -439,
    VERR_NET_MSG_SIZE = -440,
    VERR_NET_PROTOCOL_TYPE = -441,
    VERR_NET_PROTOCOL_NOT_AVAILABLE = -442,
    VERR_NET_PROTOCOL_NOT_SUPPORTED = -443,
    VERR_NET_SOCKET_TYPE_NOT_SUPPORTED = -444,
    VERR_NET_OPERATION_NOT_SUPPORTED = -445,
    VERR_NET_PROTOCOL_FAMILY_NOT_SUPPORTED = -446,
    VERR_NET_ADDRESS_FAMILY_NOT_SUPPORTED = -447,
    VERR_NET_ADDRESS_IN_USE = -448,
    VERR_NET_ADDRESS_NOT_AVAILABLE = -449,
    VERR_NET_DOWN = -450,
    VERR_NET_UNREACHABLE = -451,
    VERR_NET_CONNECTION_RESET = -452,
    VERR_NET_CONNECTION_ABORTED = -453,
    VERR_NET_CONNECTION_RESET_BY_PEER = -454,
    VERR_NET_NO_BUFFER_SPACE = -455,
    VERR_NET_ALREADY_CONNECTED = -456,
    VERR_NET_NOT_CONNECTED = -457,
    VERR_NET_SHUTDOWN = -458,
    VERR_NET_TOO_MANY_REFERENCES = -459,
    VERR_NET_CONNECTION_TIMED_OUT = -460,
    VERR_NET_CONNECTION_REFUSED = -461,
    VERR_NET_HOST_DOWN = -464,
    VERR_NET_HOST_UNREACHABLE = -465,
    VERR_NET_PROTOCOL_ERROR = -466,
    VERR_NET_INCOMPLETE_TX_PACKET = -467,
    VERR_RESOURCE_BUSY = -138,
    VERR_DISK_FULL = -152,
    VERR_TOO_MANY_SYMLINKS = -156,
    VERR_NO_MORE_FILES = -201,
    VERR_INTERNAL_ERROR = -225,
    VERR_INTERNAL_ERROR_2 = -226,
    VERR_INTERNAL_ERROR_3 = -227,
    VERR_INTERNAL_ERROR_4 = -228,
    VERR_DEV_IO_ERROR = -250,
    VERR_IO_BAD_LENGTH = -255,
    VERR_BROKEN_PIPE = -301,
    VERR_NO_DATA = -304,
    VERR_SEM_DESTROYED = -363,
    VERR_DEADLOCK = -365,
    VERR_BAD_EXE_FORMAT = -608,
    VINF_HGCM_ASYNC_EXECUTE = 2903,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_one_to_one() {
        for (status, name) in NAMES {
            assert_eq!(status.name(), Some(*name));
            assert_eq!(Status::from_name(name), Some(*status));
            assert_eq!(status.is_failure(), name.starts_with("VERR_"));
        }
        assert_eq!(VERR_DISK_FULL.to_string(), "VERR_DISK_FULL");
        assert_eq!(Status(-9999).to_string(), "status -9999");
    }
}
