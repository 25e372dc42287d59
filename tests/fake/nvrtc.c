/* Libraries that pretend to be NVRTC, for tests of what is said about them: FAKE_VERSION "12, 6" tells a version and has nothing else. */
int nvrtcVersion(int *major, int *minor);

__attribute__((visibility("default"))) int nvrtcVersion(int *major, int *minor) {
    const int version[2] = {FAKE_VERSION};
    *major = version[0];
    *minor = version[1];
    return 0;
}
