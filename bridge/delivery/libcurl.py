"""pycurl, initialised without a key log, and what its result codes say of an attempt.

Import pycurl from here: initialising libcurl is what reads SSLKEYLOGFILE.
"""

from __future__ import annotations

import os

from bridge.domain.outcome import Failure

__all__ = ["failure_of", "pycurl"]

# libcurl appends every TLS secret to the file that this variable names when it is initialised, so whoever sets it
# reads every callback. Taken out rather than hidden for a moment: an OpenSSL may be built to look at each connection.
_KEY_LOG = os.environ.pop("SSLKEYLOGFILE", None)

import pycurl  # noqa: E402  # once the variable is gone

if _KEY_LOG is not None:
    pycurl.global_cleanup()  # closes the file, should somebody have used pycurl before us; else does nothing
pycurl.global_init(pycurl.GLOBAL_ALL)  # now, not at the first handle: by then the variable may be back

# Every libcurl result code: what it says of the attempt. INTERNAL are those that only a fault of ours, or an option
# or protocol that is never used here, could bring about. Codes without a name in pycurl are written as numbers.
_FAILURES: dict[int, Failure] = {
    code: failure
    for failure, codes in {
        Failure.DNS: (pycurl.E_COULDNT_RESOLVE_HOST,),
        Failure.CONNECT: (pycurl.E_COULDNT_CONNECT,),
        Failure.TIMEOUT: (pycurl.E_OPERATION_TIMEDOUT,),
        Failure.TLS: (
            pycurl.E_SSL_CONNECT_ERROR,
            pycurl.E_SSL_CIPHER,
            pycurl.E_PEER_FAILED_VERIFICATION,
            pycurl.E_USE_SSL_FAILED,
            pycurl.E_SSL_SHUTDOWN_FAILED,
            pycurl.E_SSL_ISSUER_ERROR,
            pycurl.E_SSL_PINNEDPUBKEYNOTMATCH,
            pycurl.E_SSL_INVALIDCERTSTATUS,
            98,  # CURLE_SSL_CLIENTCERT: the receiver wants a client certificate
            101,  # CURLE_ECH_REQUIRED
        ),
        Failure.RESET: (
            pycurl.E_PARTIAL_FILE,  # closed before the announced length
            pycurl.E_GOT_NOTHING,
            pycurl.E_SEND_ERROR,
            pycurl.E_RECV_ERROR,
            pycurl.E_SEND_FAIL_REWIND,
        ),
        Failure.OVERSIZED: (
            pycurl.E_FILESIZE_EXCEEDED,
            100,  # CURLE_TOO_LARGE: more headers than libcurl reads (300 kB, 5,000 lines)
        ),
        Failure.PROTOCOL: (
            pycurl.E_UNSUPPORTED_PROTOCOL,  # an HTTP/0.9 answer, or any other than HTTP/1
            pycurl.E_FTP_WEIRD_SERVER_REPLY,  # the name is FTP's, the code is HTTP's too
            pycurl.E_HTTP2,
            pycurl.E_HTTP_RETURNED_ERROR,
            pycurl.E_RANGE_ERROR,
            pycurl.E_TOO_MANY_REDIRECTS,
            pycurl.E_BAD_CONTENT_ENCODING,  # a transfer coding that was not asked for
            92,  # CURLE_HTTP2_STREAM
            95,  # CURLE_HTTP3
            96,  # CURLE_QUIC_CONNECT_ERROR
        ),
        Failure.INTERNAL: (
            # libcurl was used wrongly, or lacks memory, a feature or the certificate bundle
            *(pycurl.E_FAILED_INIT, pycurl.E_URL_MALFORMAT, pycurl.E_NOT_BUILT_IN, pycurl.E_OUT_OF_MEMORY),
            *(pycurl.E_FUNCTION_NOT_FOUND, pycurl.E_BAD_FUNCTION_ARGUMENT, pycurl.E_BAD_CALLING_ORDER),
            *(pycurl.E_UNKNOWN_OPTION, pycurl.E_ABORTED_BY_CALLBACK, pycurl.E_AGAIN, pycurl.E_ALREADY_COMPLETE),
            *(pycurl.E_CALL_MULTI_PERFORM, pycurl.E_LIBRARY_NOT_FOUND, pycurl.E_SHARE_IN_USE),
            *(pycurl.E_SSL_CACERT_BADFILE, pycurl.E_SSL_CRL_BADFILE, pycurl.E_SSL_CERTPROBLEM),
            *(pycurl.E_SSL_ENGINE_NOTFOUND, pycurl.E_SSL_ENGINE_SETFAILED, pycurl.E_SSL_ENGINE_INITFAILED),
            # a callback of ours failed (a body that was cut on purpose is told apart before this table)
            *(pycurl.E_WRITE_ERROR, pycurl.E_READ_ERROR, pycurl.E_CHUNK_FAILED),
            # proxies, interfaces, connection limits, logins, resuming: never configured
            *(pycurl.E_COULDNT_RESOLVE_PROXY, pycurl.E_INTERFACE_FAILED, pycurl.E_NO_CONNECTION_AVAILABLE),
            *(pycurl.E_LOGIN_DENIED, pycurl.E_REMOTE_ACCESS_DENIED, pycurl.E_MALFORMAT_USER),
            *(pycurl.E_BAD_PASSWORD_ENTERED, pycurl.E_BAD_DOWNLOAD_RESUME, pycurl.E_HTTP_POST_ERROR),
            *(pycurl.E_UPLOAD_FAILED, pycurl.E_CONV_FAILED, pycurl.E_CONV_REQD),
            # other protocols: PROTOCOLS allows http and https only
            *(pycurl.E_FTP_ACCEPT_FAILED, pycurl.E_FTP_WEIRD_PASS_REPLY, pycurl.E_FTP_ACCEPT_TIMEOUT),
            *(pycurl.E_FTP_WEIRD_PASV_REPLY, pycurl.E_FTP_WEIRD_227_FORMAT, pycurl.E_FTP_CANT_GET_HOST),
            *(pycurl.E_FTP_COULDNT_SET_TYPE, pycurl.E_FTP_COULDNT_RETR_FILE, pycurl.E_FTP_WRITE_ERROR),
            *(pycurl.E_QUOTE_ERROR, pycurl.E_FTP_COULDNT_SET_ASCII, pycurl.E_FTP_PORT_FAILED),
            *(pycurl.E_FTP_COULDNT_USE_REST, pycurl.E_FTP_COULDNT_GET_SIZE, pycurl.E_FTP_PRET_FAILED),
            *(pycurl.E_FTP_BAD_FILE_LIST, pycurl.E_FILE_COULDNT_READ_FILE, pycurl.E_LDAP_CANNOT_BIND),
            *(pycurl.E_LDAP_SEARCH_FAILED, pycurl.E_LDAP_INVALID_URL, pycurl.E_TELNET_OPTION_SYNTAX),
            *(pycurl.E_TFTP_NOTFOUND, pycurl.E_TFTP_PERM, pycurl.E_REMOTE_DISK_FULL, pycurl.E_TFTP_ILLEGAL),
            *(pycurl.E_TFTP_UNKNOWNID, pycurl.E_REMOTE_FILE_EXISTS, pycurl.E_TFTP_NOSUCHUSER),
            *(pycurl.E_REMOTE_FILE_NOT_FOUND, pycurl.E_SSH, pycurl.E_RTSP_CSEQ_ERROR, pycurl.E_RTSP_SESSION_ERROR),
        ),
    }.items()
    for code in codes
}


def failure_of(code: int) -> Failure:
    """What a libcurl result code other than E_OK says of an attempt; INTERNAL for one that is not known yet."""
    return _FAILURES.get(code, Failure.INTERNAL)
