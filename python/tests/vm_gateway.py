"""The package starts a gateway where none runs. Run by python_test.go, in a state directory of its own."""

import os
import subprocess
import sys
import unittest

import smolvm


class Gateway(unittest.TestCase):
    def test_several_programs_start_one(self):
        home = os.environ["SMOLVM_HOME"]
        self.assertFalse(os.path.exists(os.path.join(home, "api.sock")))
        program = "import smolvm; print(smolvm.Client().version()['api'])"
        many = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(4)]
        self.assertEqual([p.communicate(timeout=120)[0] for p in many], ["v1\n"] * 4)
        self.assertEqual(smolvm.Client().version()["api"], "v1")

    def test_a_home_of_the_callers_choice(self):
        deep = os.path.join(os.environ["SMOLVM_HOME"], *["d" * 60] * 3)
        with smolvm.Client(data_dir=deep) as client:
            self.assertEqual(client.sandboxes(), [])
        self.assertEqual(smolvm.SmolVM(data_dir=deep).data_dir, client.home)

    def test_no_program(self):
        os.environ["SMOLVM_BIN"], before = "/nonexistent", os.environ["SMOLVM_BIN"]
        self.addCleanup(os.environ.__setitem__, "SMOLVM_BIN", before)
        with self.assertRaises(smolvm.HostError):
            smolvm.Client(data_dir=os.path.join(os.environ["SMOLVM_HOME"], "other")).version()


if __name__ == "__main__":
    unittest.main()
