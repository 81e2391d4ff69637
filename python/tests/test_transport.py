"""The connection to a gateway: reuse, loss, refusals, limits."""

import json
import os
import socket
import struct
import tempfile
import threading
import unittest
from unittest import mock

from stub import Stub

import smolvm
from smolvm import errors, transport
from smolvm.transport import Transport, connect_unix


class Requests(Stub):
    def test_one_connection_serves_many_requests(self):
        self.routes["GET /v1/version"] = {"api": "v1"}
        for _ in range(20):
            self.assertEqual(self.client.version(), {"api": "v1"})
        self.assertEqual(self.connections, 1)

    def test_a_connection_that_was_closed_while_idle_is_replaced(self):
        def once(request):
            request.close_connection = True  # without saying so
            request.reply({"api": "v1"})

        self.routes["GET /v1/version"] = once
        for _ in range(3):
            self.client.version()
        self.assertEqual(self.connections, 3)

    def test_errors_keep_class_code_recovery_and_request_id(self):
        for kind, status, made in [
            ("not_found", 404, errors.NotFoundError),
            ("conflict", 409, errors.ConflictError),
            ("invalid", 400, errors.ValidationError),
            ("unavailable", 503, errors.UnavailableError),
            ("timeout", 504, errors.OperationTimeoutError),
            ("denied", 403, errors.DeniedError),
            ("exhausted", 429, errors.ExhaustedError),
            ("internal", 500, errors.SmolVMError),
            ("of another version", 500, errors.SmolVMError),
        ]:
            body = {"class": kind, "message": "it went wrong", "recovery": "Do this.", "request_id": "r1", "details": {"a": 1}}
            self.routes["GET /v1/version"] = (status, body)
            with self.assertRaises(errors.SmolVMError) as caught:
                self.client.version()
            e = caught.exception
            self.assertIs(type(e), made)
            self.assertEqual(e.request_id, "r1")
            self.assertIn("it went wrong", str(e))
            if kind != "timeout":
                self.assertEqual((e.recovery, e.code, e.details), ("Do this.", kind, {"a": 1}))
                self.assertIn("Do this.", str(e))
        self.assertEqual(self.connections, 1, "a refusal costs no connection")

    def test_what_is_no_json_is_an_error_with_its_text(self):
        self.routes["GET /v1/version"] = (502, b"<html>bad gateway</html>")
        with self.assertRaisesRegex(errors.SmolVMError, "bad gateway"):
            self.client.version()
        self.routes["GET /v1/version"] = b"{"
        with self.assertRaises(errors.GatewayError):
            self.client.version()

    def test_missing_dependency_is_the_hosts(self):
        body = {"class": "unavailable", "code": "missing_dependency", "message": "no QEMU", "recovery": "Run: smolvm setup"}
        self.routes["GET /v1/version"] = (503, body)
        with self.assertRaisesRegex(errors.HostError, "smolvm setup"):
            self.client.version()

    def test_an_answer_after_which_the_connection_ends(self):
        def last(status, value):
            def answer(request):
                data = json.dumps(value).encode()
                request.send_response(status)
                request.send_header("Connection", "close")
                request.send_header("Content-Length", str(len(data)))
                request.end_headers()
                request.wfile.write(data)
                request.close_connection = True

            return answer

        self.routes["GET /v1/version"] = last(200, {"api": "v1"})
        self.assertEqual(self.client.version(), {"api": "v1"})
        self.routes["GET /v1/version"] = last(413, {"class": "exhausted", "message": "too much"})
        with self.assertRaisesRegex(errors.ExhaustedError, "too much"):
            self.client.version()
        self.assertEqual(self.connections, 2)

    def test_a_refusal_before_the_body_is_sent(self):
        with tempfile.TemporaryDirectory() as dir:
            path = os.path.join(dir, "s")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()

                def refuse():
                    conn, _ = listener.accept()
                    conn.recv(100)
                    body = b'{"class":"exhausted","message":"too much"}'
                    conn.sendall(b"HTTP/1.1 413 X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                    conn.close()

                thread = threading.Thread(target=refuse)
                thread.start()
                t = Transport(f"unix://{path}")
                with self.assertRaisesRegex(errors.ExhaustedError, "too much"):
                    t.request("PUT", "/v1/x", b"x" * (8 << 20))
                thread.join()

    def test_an_answer_that_breaks_off_is_an_error(self):
        def half(request):
            request.send_response(200)
            request.send_header("Content-Length", "100")
            request.end_headers()
            request.wfile.write(b'{"api"')
            request.close_connection = True

        self.routes["GET /v1/version"] = half
        with self.assertRaises(errors.GatewayError):
            self.client.version()

    def test_silence_has_an_end(self):
        self.routes["GET /v1/version"] = lambda request: request.hangs_up() and None
        with self.assertRaises(errors.OperationTimeoutError):
            self.client.http.json("GET", "/v1/version", timeout=0.1)

    def test_a_huge_answer_is_refused(self):
        import smolvm.transport as transport

        most, transport.MAX_BODY = transport.MAX_BODY, 1000
        self.addCleanup(setattr, transport, "MAX_BODY", most)
        self.routes["GET /v1/version"] = b"x" * 2000
        with self.assertRaisesRegex(errors.GatewayError, "1000 bytes"):
            self.client.version()

    def test_nobody_listens(self):
        t = Transport("unix:///nonexistent/api.sock")
        with self.assertRaisesRegex(errors.GatewayError, "smolvm serve"):
            t.json("GET", "/v1/version")

    def test_many_threads(self):
        self.routes["GET /v1/version"] = {"api": "v1"}
        wrong = []

        def work():
            for _ in range(20):
                try:
                    self.client.version()
                except Exception as e:
                    wrong.append(e)

        threads = [threading.Thread(target=work) for _ in range(10)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(wrong, [])

    def test_a_forked_child_has_connections_of_its_own(self):
        self.routes["GET /v1/version"] = {"api": "v1"}
        self.client.version()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self.client.version()
                code = 0
            finally:
                os._exit(code)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        self.client.version()
        self.assertEqual(self.connections, 2)

    def test_a_key_goes_with_each_request(self):
        self.routes["GET /v1/version"] = {"api": "v1"}
        with smolvm.Client(f"unix://{self.path}", "secret") as client:
            client.version()
        self.assertEqual(self.seen[-1][2]["Authorization"], "Bearer secret")

    def test_the_environment_names_another_gateway(self):
        self.routes["GET /v1/version"] = {"api": "v2"}
        os.environ["SMOLVM_URL"] = f"unix://{self.path}"
        self.addCleanup(os.environ.pop, "SMOLVM_URL")
        with smolvm.Client() as client:
            self.assertEqual(client.version(), {"api": "v2"})


class Addresses(unittest.TestCase):
    def test_bad_ones_are_refused(self):
        for url in ["", "localhost:80", "ftp://x", "http://", "unix://", "http://h:p", "http://h/path"]:
            with self.assertRaises(errors.ValidationError, msg=url):
                Transport(url)


class Strangers(unittest.TestCase):
    """Who else may be at the other end, as the kernel tells it."""

    def test_a_socket_of_another_user_is_refused(self):
        for uid, good in [(os.geteuid(), True), (0, True), (os.geteuid() + 1, False)]:
            sock = mock.Mock()
            sock.getsockopt.return_value = struct.pack("3i", 1, uid, uid)
            if good:
                transport._check_owner(sock, "/x/api.sock")
                continue
            with self.assertRaises(errors.DeniedError) as caught:
                transport._check_owner(sock, "/x/api.sock")
            self.assertEqual(caught.exception.code, "foreign_gateway")

    def test_a_key_does_not_leave_this_machine_unencrypted(self):
        sock = mock.Mock()

        def connect(conn):
            conn.sock = sock

        with mock.patch("http.client.HTTPConnection.connect", connect):
            for address, good in [("127.0.0.1", True), ("::1", True), ("192.0.2.1", False), ("fe80::1%eth0", False)]:
                sock.getpeername.return_value = (address, 80)
                client = Transport("http://gateway.test", api_key="smolvm_x")
                if good:
                    client.dial().close()
                    continue
                with self.assertRaises(errors.ValidationError) as caught:
                    client.dial()
                self.assertEqual(caught.exception.code, "insecure_url")
            sock.sendall.assert_not_called()
            Transport("http://gateway.test").dial().close()


class LongPaths(Stub):
    def test_a_socket_at_a_long_path(self):
        deep = os.path.join(os.path.dirname(self.path), *["d" * 50] * 4)
        os.makedirs(deep)
        path = os.path.join(deep, "api.sock")
        short = os.path.join(os.path.dirname(self.path), "other.sock")
        self.serve(short)
        os.rename(short, path)
        self.assertGreater(len(path), 107)
        sock = socket.socket(socket.AF_UNIX)
        with self.assertRaises(OSError):
            sock.connect(path)
        sock.close()
        sock = socket.socket(socket.AF_UNIX)
        connect_unix(sock, path)
        sock.close()
        self.routes["GET /v1/version"] = {"api": "v1"}
        with smolvm.Client(f"unix://{path}") as client:
            self.assertEqual(client.version(), {"api": "v1"})


if __name__ == "__main__":
    unittest.main()
