/* What the C tests share: checks that say where they failed, and end the program. */
#ifndef CHECK_H
#define CHECK_H

#include <owlet.h>

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                 \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);      \
            exit(1);                                                                     \
        }                                                                                \
    } while (0)

/* That `call`, which uses the variable `error`, gives `expected`, and an error that says so. */
#define EXPECT(expected, call)                                                           \
    do {                                                                                 \
        owlet_error *error = NULL;                                                       \
        uint32_t found = (uint32_t)(call);                                               \
        if (found != (uint32_t)(expected)) {                                             \
            fprintf(stderr, "%s:%d: expected %s, got %s (%s): %s\n", __FILE__, __LINE__, \
                    #expected, owlet_status_name((owlet_status)found),                   \
                    owlet_error_text(error), #call);                                     \
            exit(1);                                                                     \
        }                                                                                \
        CHECK((found == 0) == (error == NULL));                                          \
        CHECK((uint32_t)owlet_error_status(error) == found);                             \
        CHECK(found == 0 || owlet_error_text(error)[0] != '\0');                         \
        owlet_error_free(error);                                                         \
    } while (0)

/* A call that must succeed. */
#define OK(call) EXPECT(OWLET_STATUS_OK, call)

#endif
