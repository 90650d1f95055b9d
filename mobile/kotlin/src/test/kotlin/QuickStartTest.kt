// In the root package, as the README's lines are.
import dev.owlet.Fixtures
import dev.owlet.bounded
import java.io.File
import java.nio.file.Files
import kotlin.test.assertTrue
import org.junit.jupiter.api.Test

class QuickStartTest {
    /** The README's own lines, which are compiled with the tests. */
    @Test
    fun `the quick start runs`() = bounded(seconds = 600) {
        val files = Files.createTempDirectory("owlet-quick").toFile()
        File(Fixtures.modelPath).copyTo(File(files, "model.gguf"))
        File(Fixtures.projectorPath).copyTo(File(files, "mmproj.gguf"))
        val row = """{"problem": "<image>What color is it?", "images": ["0.png"], "answer": "<answer>red</answer>",
            "problem_type": "ocr", "task_type": "ocr", "data_type": "image", "options": []}"""
        File(files, "train.jsonl").writeText(row.replace("\n", " ") + "\n")
        File(files, "0.png").writeBytes(Fixtures.png())
        quickStart(files, Fixtures.png())
        assertTrue(File(files, "run/metrics.jsonl").exists())
        assertTrue(files.deleteRecursively())
    }
}
