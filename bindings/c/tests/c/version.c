/* The header and the library are of the same version, and structs are as large on both sides. */
#include "check.h"

#include <string.h>

int main(void)
{
    owlet_session_options options = owlet_session_options_init();

    CHECK(strcmp(owlet_version(), OWLET_VERSION) == 0);
    CHECK(owlet_version_number() == OWLET_VERSION_NUMBER);
    CHECK(options.struct_size == sizeof(options) && options.n_ctx == 0 && options.system == NULL);
    puts(owlet_version());
    return 0;
}
