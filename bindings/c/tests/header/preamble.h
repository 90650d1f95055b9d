/*
 * Owlet: vision-language models on the device, and their adaptation.
 *
 * This file is made from the sources in bindings/c; `make header` makes it anew.
 *
 * RULES FOR ALL FUNCTIONS
 *
 * Results. A function that can fail returns an owlet_status, 0 for success. Its last argument, `error`, may be NULL; see
 * owlet_error. A function that makes an object writes it to `*out`, which is NULL after a failure. Other outputs are written
 * on success only. A panic inside the library is OWLET_STATUS_INTERNAL.
 *
 * Objects. Types without fields are objects: the library makes them, the caller frees each by the function of its name that
 * ends in _free, which takes NULL too. Objects keep shares of what they need, so any order of freeing is right. An object that
 * was freed already, or a pointer to something else, is OWLET_STATUS_INVALID_INPUT, as long as its address was not given to a
 * new object of the same type. Strings and arrays that belong to an object are gone with it.
 *
 * Threads. Every function may be called from any thread, and every object may be used by several threads; what that means for
 * an object that changes is written at its type. A call works on the thread that makes it, unless its documentation says
 * otherwise, and returns when it is done; owlet_cancel_token ends it early.
 *
 * Pointers. Strings are UTF-8 and NUL-terminated; paths are the bytes that the system takes. What a function is given is
 * read or copied during the call, unless its documentation says otherwise. NULL, a string that is not UTF-8, a number
 * that is none of an enum and a length beyond reason are errors, and nothing else about a pointer can be checked: memory
 * must be as large as a length says.
 *
 * Structs. A struct that begins with struct_size is made by the function of its name that ends in _init, or by zeroing it and
 * setting struct_size to its sizeof. Fields that are 0 or NULL mean the default. Later versions add fields at the end: a
 * program that was compiled with an older header runs with a newer library, and a newer struct is refused by an older library
 * with OWLET_STATUS_UNSUPPORTED. Enums are passed as numbers of 32 bits, and flags as 0 or 1.
 *
 * Callbacks. They get `user_data` first, unchanged. A callback must return: a C++ exception or a longjmp that leaves it ends
 * the process. It may call any function, but for the object that the call works with: see owlet_session, owlet_adapt_job.
 *
 * Signals and fork. No function is for signal handlers. A process that loaded a model must not use it after fork().
 */
