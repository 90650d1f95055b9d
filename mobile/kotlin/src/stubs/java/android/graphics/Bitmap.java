package android.graphics;

import java.nio.Buffer;
import java.nio.ByteBuffer;

/**
 * What {@code src/android} uses of Android's class, with the same signatures, over an array: no registry that our tests can
 * reach has an {@code android.jar}. For tests on a JVM; it is not part of the AAR.
 */
public final class Bitmap {
    /** The configurations that the tests make, and one that has to be copied first. */
    public enum Config { ARGB_8888, HARDWARE }

    private final int width;
    private final int height;
    private final Config config;
    private final boolean premultiplied;
    private final byte[] rgba;
    private boolean recycled;

    private Bitmap(int width, int height, Config config, boolean premultiplied, byte[] rgba) {
        this.width = width;
        this.height = height;
        this.config = config;
        this.premultiplied = premultiplied;
        this.rgba = rgba;
    }

    /** Not Android's: a bitmap over the bytes R, G, B, A of each pixel. */
    public static Bitmap over(int width, int height, Config config, boolean premultiplied, byte[] rgba) {
        return new Bitmap(width, height, config, premultiplied, rgba);
    }

    public int getWidth() {
        return width;
    }

    public int getHeight() {
        return height;
    }

    public int getRowBytes() {
        return 4 * width;
    }

    public Config getConfig() {
        return config;
    }

    public boolean isPremultiplied() {
        return premultiplied;
    }

    public boolean isRecycled() {
        return recycled;
    }

    public void recycle() {
        recycled = true;
    }

    public Bitmap copy(Config config, boolean mutable) {
        return new Bitmap(width, height, config, premultiplied, rgba.clone());
    }

    public void copyPixelsToBuffer(Buffer target) {
        if (config == Config.HARDWARE) {
            throw new IllegalStateException("unable to copyPixelsToBuffer, pixel access is not supported on Config#HARDWARE bitmaps");
        }
        ((ByteBuffer) target).put(rgba);
    }
}
