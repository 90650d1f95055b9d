// The Android library (AAR). Not run where Owlet is developed: there is no Android SDK and no Maven repository. What is
// run there is test.sh, which compiles the same sources with the same compiler and tests them on a JVM.
// ../package-aar.sh builds the native libraries and the generated bindings first, and then calls `gradle assembleRelease`.

plugins {
    id("com.android.library") version "8.13.0"
    kotlin("android") version "2.4.20"
}

group = "dev.owlet"
version = Regex("(?m)^version = \"(.+)\"").find(file("../../Cargo.toml").readText())!!.groupValues[1]

val built = file("../../target/kotlin")

android {
    namespace = "dev.owlet"
    compileSdk = 36
    defaultConfig {
        // Bitmaps on the GPU, and the first API level of which the NDK promises everything that llama.cpp uses.
        minSdk = 28
        consumerProguardFiles("consumer-rules.pro")
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
    }
    sourceSets["main"].apply {
        manifest.srcFile("src/android/AndroidManifest.xml")
        kotlin.srcDirs("src/main/kotlin", "src/android/kotlin", built.resolve("generated"))
        jniLibs.srcDir(built.resolve("jniLibs"))
    }
    // Libraries are mapped from the APK as they are: uncompressed, on a boundary of 16 KB.
    packaging.jniLibs.useLegacyPackaging = false
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

kotlin {
    jvmToolchain(17)
}

dependencies {
    api("org.jetbrains.kotlinx:kotlinx-coroutines-android:1.10.2")
    // The AAR holds JNA's native half for Android, which the jar does not. Before 5.17 it does not load with pages of 16 KB.
    implementation("net.java.dev.jna:jna:5.18.1@aar")
}
