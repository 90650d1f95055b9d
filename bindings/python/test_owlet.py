"""The Python bindings with the embedded model: `make test-python`."""

import asyncio
import gc
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = os.environ.get("OWLET_PYTHON", str(ROOT / "target" / "python"))
sys.path.insert(0, GENERATED)

import owlet  # noqa: E402

MODEL = str(ROOT / "models" / "owlet-tiny-F16.gguf")
MMPROJ = str(ROOT / "models" / "mmproj-owlet-tiny-F16.gguf")
SIDE = 128


def png(shade):
    """A square on a ground, as the bytes of a PNG file."""
    rows = b"".join(
        b"\0" + b"".join(bytes((255 - shade, shade, 40) if 32 <= x < 96 and 32 <= y < 96 else (240,) * 3) for x in range(SIDE))
        for y in range(SIDE)
    )

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def samples(count):
    """Questions whose truth does not matter: the rewards of these tests judge by other things."""
    return [
        owlet.Sample(
            id=f"sample {i}",
            problem="<image>Which colour is the square?",
            answer="red",
            problem_type=owlet.ProblemType.OPEN_ENDED,
            images=[owlet.SampleImage.ENCODED(png(10 * i))],
        )
        for i in range(count)
    ]


class Events(owlet.EventSink):
    """Collects what an answer says; `stop_after` pieces it ends the answer, at `fail_after` it throws."""

    def __init__(self, stop_after=None, fail_after=None):
        self.pieces, self.threads = [], set()
        self.stop_after, self.fail_after = stop_after, fail_after

    def on_event(self, event):
        self.pieces.append(event.text)
        self.threads.add(threading.get_ident())
        if self.fail_after is not None and len(self.pieces) >= self.fail_after:
            raise ValueError("the sink is full")
        return self.stop_after is None or len(self.pieces) < self.stop_after


class Shorter(owlet.Reward):
    """Prefers short answers; `fail_after` calls it throws."""

    def __init__(self, fail_after=None):
        self.n_calls, self.fail_after, self.lock = 0, fail_after, threading.Lock()

    def name(self):
        return "shorter 1"

    def score(self, response, sample):
        with self.lock:
            self.n_calls += 1
            if self.fail_after is not None and self.n_calls > self.fail_after:
                raise RuntimeError("no more judgements")
        assert sample.id.startswith("sample ") and sample.answer == "red"
        return owlet.RewardParts(accuracy=1 / (1 + len(response) % 17), format=0.0, structure=0.0)


class Watch(owlet.ProgressSink):
    def __init__(self, on=None):
        self.events, self.on = [], on

    def on_progress(self, progress):
        self.events.append(progress)
        if self.on:
            self.on(progress)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


def adapt_options(**more):
    options = dict(
        n_steps=2,
        prompts_per_step=2,
        group_size=3,
        max_new_tokens=12,
        max_prompt_tokens=200,
        n_sequences=6,
        rank=4,
        learning_rate=0.01,
        keep_all_groups=True,
        n_threads=1,
        seed=3,
    )
    return owlet.AdaptOptions(**{**options, **more})


def session_options(**more):
    answer = owlet.AnswerOptions(max_new_tokens=24, temperature=0.0)
    conversation = owlet.ConversationOptions(answer=answer, **more)
    return owlet.SessionOptions(n_ctx=512, n_threads=1, conversation=conversation)


class OwletTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="owlet-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.model = await owlet.Model.load(MODEL, owlet.ModelOptions(n_threads=1))
        self.image = owlet.Image.from_bytes(png(40))

    async def failure(self, awaitable, kind):
        with self.assertRaises(owlet.OwletError.Failure) as caught:
            await awaitable
        self.assertEqual(caught.exception.info.kind, kind, caught.exception.info)
        return caught.exception.info

    async def ask(self, session, text="What is it?", **more):
        return await session.ask(owlet.Message(text=text, images=[self.image]), **more)

    async def test_a_question_about_a_picture_is_answered_and_streamed(self):
        progress = []

        class Loading(owlet.LoadWatcher):
            def on_progress(self, done):
                progress.append(done)
                return True

        model = await owlet.Model.load(MODEL, owlet.ModelOptions(n_threads=1), Loading())
        self.assertEqual((progress[-1], progress), (1.0, sorted(progress)))
        self.assertTrue(model.info().has_vision and model.info().architecture == "qwen3vl")
        session = await owlet.Session.open(model, session_options())
        events = Events()
        turn = await self.ask(session, sink=events)
        self.assertEqual("".join(events.pieces), turn.thinking + turn.answer)
        self.assertGreater(len(events.pieces), 1)
        self.assertNotIn(threading.get_ident(), events.threads)
        self.assertEqual([len(turn.tokens), turn.report.n_answer_tokens], [len(turn.logprobs)] * 2)
        question, answer = session.messages()
        self.assertEqual((question.role, question.n_images, answer.role), (owlet.Role.USER, 1, owlet.Role.ASSISTANT))
        # The same question again, to another session: the same answer.
        again = await self.ask(await owlet.Session.open(model, session_options()))
        self.assertEqual(turn.tokens, again.tokens)
        # Pixels of the app give what the file gives.
        pixels = owlet.RawPixels(bytes=b"\x01\x02\x03" * 64 * 64, width=64, height=64, format=owlet.PixelFormat.RGB8)
        self.assertEqual(owlet.Image.from_pixels(pixels).width(), 64)

    async def test_a_sink_ends_the_answer_or_fails_the_turn(self):
        session = await owlet.Session.open(self.model, session_options())
        turn = await self.ask(session, sink=Events(stop_after=1))
        self.assertIsInstance(turn.stop, owlet.StopReason.CALLER)
        self.assertEqual(len(session.messages()), 2)
        info = await self.failure(self.ask(session, sink=Events(fail_after=2)), owlet.ErrorKind.CALLBACK)
        self.assertIn("the sink is full", info.text)
        self.assertEqual(len(session.messages()), 2)
        await self.ask(session)

    async def test_a_call_is_cancelled_by_its_token_and_with_its_task(self):
        session = await owlet.Session.open(self.model, session_options())
        token = owlet.CancelToken()

        class Cancel(Events):
            def on_event(self, event):
                token.cancel()
                return True

        await self.failure(self.ask(session, sink=Cancel(), cancel=token), owlet.ErrorKind.CANCELLED)
        await self.failure(self.ask(session, cancel=owlet.CancelToken.after_ms(0)), owlet.ErrorKind.CANCELLED)

        begun = threading.Event()

        class Slow(Events):
            def on_event(self, event):
                begun.set()
                time.sleep(0.05)
                return super().on_event(event)

        slow = Slow()
        task = asyncio.create_task(self.ask(session, sink=slow))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        # The next call waits for the end of that one: soon, and without its turn.
        turn = await self.ask(session)
        self.assertLess(len(slow.pieces), turn.report.n_answer_tokens)
        self.assertEqual(len(session.messages()), 2)
        # While a model is loaded.
        await self.failure(owlet.Model.load(MODEL, cancel=owlet.CancelToken.after_ms(0)), owlet.ErrorKind.CANCELLED)

    async def test_sessions_are_saved_forked_and_restored(self):
        options = session_options()
        options.n_conversations = 2
        session = await owlet.Session.open(self.model, options)
        await self.ask(session)
        path = str(self.folder / "talk.owlet")
        await session.save(path)
        fork = await session.fork()
        restored = await owlet.Session.restore(self.model, path, options)
        question = owlet.Message(text="And now?")
        answers = [(await talk.ask(question)).tokens for talk in (session, fork, restored)]
        self.assertEqual(answers, [answers[0]] * 3)
        await self.failure(session.fork(), owlet.ErrorKind.LIMIT)

    async def test_answers_are_scored_constrained_and_sampled_in_parallel(self):
        prompt = owlet.Prompt(messages=[owlet.Message(text="Which colour?", images=[self.image])])
        scores = await self.model.score(prompt, ["red", "blue"], owlet.ScoreOptions(session=session_options()))
        self.assertTrue(all(scored.sum < 0 for scored in scores), scores)
        heard = {}

        class Texts(owlet.TokenSink):
            def on_text(self, sample, text):
                heard[sample] = heard.get(sample, "") + text
                return True

        answer = owlet.AnswerOptions(
            max_new_tokens=16, constraint=owlet.Constraint.LARK('start: "red" | "blue"'), thinking_budget=0
        )
        options = owlet.GenerateOptions(n=3, n_parallel=2, answer=answer, session=session_options(), seed=5)
        answers = await self.model.generate(prompt, options, Texts())
        self.assertEqual([answer.meets_constraint for answer in answers], [True] * 3)
        self.assertEqual([heard[i] for i in range(3)], [answer.thinking + answer.answer for answer in answers])
        box = owlet.BoundingBox(x1=0, y1=0, x2=500, y2=1000)
        self.assertEqual(self.model.box_to_pixels(self.image, box).x2, SIDE / 2)

    async def test_an_adapter_is_trained_with_a_reward_saved_and_swapped_in(self):
        data = owlet.Dataset.from_samples(samples(4))
        reward, watch = Shorter(), Watch()
        job = await owlet.AdaptJob.open(self.model, data, adapt_options(), reward, str(self.folder / "run"))
        self.assertEqual(job.state(), owlet.JobState.IDLE)
        report = await job.run(watch)
        self.assertEqual((report.n_steps, job.state(), await job.n_steps_done()), (2, owlet.JobState.DONE, 2))
        self.assertEqual([event.metrics.step for event in watch.of(owlet.Progress.STEP_DONE)], [0, 1])
        self.assertGreaterEqual(reward.n_calls, 2 * 2 * 3)
        path = str(self.folder / "adapter.gguf")
        await job.write_adapter(path)

        session = await owlet.Session.open(self.model, session_options())
        before = await self.ask(session)
        adapter = owlet.Adapter.open(self.model, path)
        self.assertGreater(await adapter.check_effect(n_threads=1), 0)
        # Straight from the job, without a file, it is the same one.
        swapped = [owlet.ActiveAdapter(adapter=await job.adapter())]
        await session.set_adapters(swapped)
        changed = await owlet.Session.open(self.model, session_options(), [owlet.ActiveAdapter(adapter=adapter)])
        texts = [await self.ask(changed), await self.ask(await owlet.Session.open(self.model, session_options(), swapped))]
        self.assertEqual(texts[0].logprobs, texts[1].logprobs)
        self.assertNotEqual(before.logprobs, texts[0].logprobs)

        evaluation = await job.evaluate(data)
        self.assertEqual([len(evaluation.answers), evaluation.reward.n], [4, 4])

    async def test_a_job_pauses_is_cancelled_and_goes_on_in_another_one(self):
        data, folder = owlet.Dataset.from_samples(samples(4)), str(self.folder / "run")
        options = adapt_options(n_steps=3)
        whole = await owlet.AdaptJob.open(self.model, data, options, Shorter())
        await whole.run()

        job = await owlet.AdaptJob.open(self.model, data, options, Shorter(), folder)
        job.pause()
        watch = Watch()
        running = asyncio.create_task(job.run(watch))
        while job.state() != owlet.JobState.PAUSED:
            await asyncio.sleep(0.01)
        self.assertEqual(await job.n_steps_done(), 0)
        await self.failure(job.run(), owlet.ErrorKind.BUSY)
        stepped = asyncio.Event()
        loop = asyncio.get_running_loop()
        watch.on = lambda event: isinstance(event, owlet.Progress.STEP_DONE) and loop.call_soon_threadsafe(stepped.set)
        job.resume()
        await stepped.wait()
        running.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await running
        while job.state() != owlet.JobState.IDLE:
            await asyncio.sleep(0.01)
        self.assertTrue(watch.of(owlet.Progress.PAUSED) and watch.of(owlet.Progress.RESUMED))
        await self.failure(
            owlet.AdaptJob.open(self.model, data, options, Shorter(), folder), owlet.ErrorKind.BUSY
        )
        # Its folder is free when the last reference is gone.
        del job, running
        gc.collect()

        again = await owlet.AdaptJob.open(self.model, data, options, Shorter(), folder, owlet.Begin.RESUME)
        self.assertGreaterEqual(await again.n_steps_done(), 1)
        await again.run()
        # To the bit what it would have been without all that.
        paths = [str(self.folder / name) for name in ("whole.gguf", "again.gguf")]
        await whole.write_adapter(paths[0])
        await again.write_adapter(paths[1])
        self.assertEqual(*(owlet.Adapter.open(self.model, path).info().hash for path in paths))

    async def test_a_gate_lets_a_better_adapter_go_live_and_back(self):
        data, folder = owlet.Dataset.from_samples(samples(4)), str(self.folder / "gate")
        job = await owlet.AdaptJob.open(self.model, data, adapt_options(n_steps=1), Shorter())
        await job.run()
        candidate = str(self.folder / "adapter.gguf")
        await job.write_adapter(candidate)
        # So many samples prove nothing: this rule lets everything pass that is not far worse, the next one nothing.
        lenient = owlet.GateRule(min_samples=4, least_gain=-10, most_loss=10, most_task_loss=10)
        gate = owlet.AdapterGate.open(folder, lenient)
        verdict = await gate.consider(candidate, self.model, data, adapt_options(), Shorter())
        self.assertTrue(verdict.is_accepted and not verdict.reasons and verdict.n_samples == 4, verdict)
        self.assertEqual((await gate.has_candidate(), await gate.active()), (True, None))
        live = await gate.activate()
        self.assertEqual((await gate.active(), owlet.active_adapter(folder)), (live, live))
        self.assertEqual(owlet.Adapter.open(self.model, live).info().hash, verdict.candidate)
        with self.assertRaises(owlet.OwletError.Failure) as caught:
            owlet.AdapterGate.open(folder, lenient)
        self.assertEqual(caught.exception.info.kind, owlet.ErrorKind.BUSY)
        self.assertIsNone(await gate.rollback())
        del gate
        gc.collect()

        gate = owlet.AdapterGate.open(folder, owlet.GateRule(min_samples=4, least_gain=10))
        verdict = await gate.consider(candidate, self.model, data, adapt_options(), Shorter())
        self.assertTrue(verdict.reasons and not verdict.is_accepted, verdict)
        await self.failure(gate.activate(), owlet.ErrorKind.NOT_FOUND)
        info = await self.failure(
            gate.consider(candidate, self.model, data, adapt_options(), Shorter(fail_after=1)), owlet.ErrorKind.CALLBACK
        )
        self.assertIn("no more judgements", info.text)

    async def test_a_reward_or_listener_that_throws_ends_the_run_and_nothing_else(self):
        data = owlet.Dataset.from_samples(samples(4))
        reward = Shorter(fail_after=4)
        job = await owlet.AdaptJob.open(self.model, data, adapt_options(n_steps=1), reward)
        info = await self.failure(job.run(), owlet.ErrorKind.CALLBACK)
        self.assertIn("no more judgements", info.text)

        def fail(progress):
            raise ValueError("the listener is tired")

        reward.fail_after = None
        info = await self.failure(job.run(Watch(on=fail)), owlet.ErrorKind.CALLBACK)
        self.assertIn("the listener is tired", info.text)
        self.assertEqual((await job.run()).n_steps, 1)

    async def test_memory_is_planned_and_a_budget_that_does_not_fit_is_refused(self):
        request = owlet.InferenceRequest(session=session_options())
        plan = await owlet.plan_inference(MODEL, MMPROJ, request)
        self.assertEqual(plan.peak_bytes, sum(part.n_bytes for part in plan.parts))
        request.session.memory_budget_bytes = 1 << 20
        info = await self.failure(owlet.plan_inference(MODEL, MMPROJ, request), owlet.ErrorKind.LIMIT)
        self.assertTrue(info.got and info.needed, info)
        plan = await owlet.plan_adaptation(MODEL, MMPROJ, adapt_options())
        self.assertGreater(plan.peak_bytes, 1 << 20)

    async def test_misuse_is_an_error_that_says_what_and_where(self):
        info = await self.failure(owlet.Model.load(str(self.folder / "no.gguf")), owlet.ErrorKind.NOT_FOUND)
        self.assertIn("no.gguf", info.place)
        bad = self.folder / "bad.gguf"
        bad.write_bytes(b"no GGUF at all")
        await self.failure(owlet.Model.load(str(bad)), owlet.ErrorKind.INVALID_FILE)
        session = await owlet.Session.open(self.model, session_options())
        long = "word " * 600
        info = await self.failure(session.ask(owlet.Message(text=long)), owlet.ErrorKind.CONTEXT_OVERFLOW)
        self.assertTrue(info.got and info.needed, info)
        for make, kind in [
            (lambda: owlet.Image.from_bytes(b"no picture"), owlet.ErrorKind.INVALID_FILE),
            (lambda: owlet.Image.open(str(self.folder / "no.png")), owlet.ErrorKind.NOT_FOUND),
            (lambda: owlet.Adapter.open(self.model, MODEL), owlet.ErrorKind.UNSUPPORTED),
            (lambda: owlet.Dataset.open(str(bad)), owlet.ErrorKind.INVALID_FILE),
        ]:
            with self.assertRaises(owlet.OwletError.Failure) as caught:
                make()
            self.assertEqual(caught.exception.info.kind, kind, caught.exception.info)
        for options in (adapt_options(group_size=1), adapt_options(rank=0), adapt_options(temperature=-1.0)):
            data = owlet.Dataset.from_samples(samples(1))
            await self.failure(owlet.AdaptJob.open(self.model, data, options), owlet.ErrorKind.INVALID_INPUT)

    def test_the_table_of_errors_is_whole(self):
        kinds = owlet.error_kinds()
        self.assertEqual({kind.kind for kind in kinds}, set(owlet.ErrorKind))
        self.assertEqual({kind.name.upper() for kind in kinds}, {kind.name for kind in owlet.ErrorKind})
        self.assertEqual(len({kind.status for kind in kinds}), len(kinds))

    def test_the_program_of_the_readme_runs(self):
        (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "bindings" / "README.md").read_text(), re.DOTALL)
        picture = self.folder / "picture.png"
        picture.write_bytes(png(90))
        command = [sys.executable, "-c", program, str(picture)]
        environment = {**os.environ, "PYTHONPATH": GENERATED}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("tokens a second", done.stdout)

    async def test_what_is_logged_reaches_the_app(self):
        lines = []

        class Log(owlet.LogSink):
            def on_log(self, level, target, text):
                lines.append((level, target, text))

        owlet.set_log_sink(owlet.LogLevel.DEBUG, Log())
        try:
            await owlet.Model.load(MODEL, owlet.ModelOptions(n_threads=1))
        finally:
            owlet.clear_log_sink()
        self.assertTrue(any(target == "llama.cpp" for _, target, _ in lines), lines[:3])


if __name__ == "__main__":
    unittest.main()
