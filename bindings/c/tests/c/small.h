/* Small sessions and messages, and what is wrong with others. */
#ifndef SMALL_H
#define SMALL_H

#include <owlet.h>

#define INVALID OWLET_STATUS_INVALID_INPUT

/* Bytes that are no UTF-8. */
#define BAD_TEXT "owl\xff"

static inline owlet_session_options small_session(void)
{
    owlet_session_options options = owlet_session_options_init();
    options.n_ctx = 512;
    options.n_threads = 1;
    return options;
}

static inline owlet_message asking(const char *text)
{
    owlet_message message = owlet_message_init();
    message.text = text;
    return message;
}

#endif
