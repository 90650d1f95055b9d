// As chat.c, the way a C++ program would write it: handles in unique pointers, failures as exceptions (outside of callbacks).
//
//     chat MODEL.gguf PICTURE QUESTION...
#include <owlet.h>

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>

namespace {

// Frees handles of any type.
struct Free {
    void operator()(owlet_model *model) const { owlet_model_free(model); }
    void operator()(owlet_image *image) const { owlet_image_free(image); }
    void operator()(owlet_session *session) const { owlet_session_free(session); }
    void operator()(owlet_turn *turn) const { owlet_turn_free(turn); }
    void operator()(owlet_error *error) const { owlet_error_free(error); }
};
template <typename T> using Handle = std::unique_ptr<T, Free>;

// Calls `function` with the arguments, a place for a handle, and one for an error, which becomes an exception.
template <typename T, typename Function, typename... Arguments> Handle<T> make(Function function, Arguments... arguments)
{
    T *made = nullptr;
    owlet_error *failed = nullptr;
    if (function(arguments..., &made, &failed) != OWLET_STATUS_OK) {
        Handle<owlet_error> error(failed);
        throw std::runtime_error(owlet_error_text(error.get()));
    }
    return Handle<T>(made);
}

// No exception may leave a callback.
int32_t append(void *answer, const owlet_event *event) noexcept
{
    try {
        if (event->kind == OWLET_EVENT_KIND_ANSWER) {
            static_cast<std::string *>(answer)->append(event->text, event->n_bytes);
        }
        return OWLET_FLOW_CONTINUE;
    } catch (...) {
        return -1;
    }
}

void chat(int argc, char **argv)
{
    auto model_options = owlet_model_options_init();
    auto model = make<owlet_model>(owlet_model_load, argv[1], &model_options, nullptr);
    auto image = make<owlet_image>(owlet_image_open, argv[2], uint32_t(OWLET_ALPHA_DROP), nullptr);
    auto answer_options = owlet_answer_options_init();
    answer_options.greedy = 1;
    answer_options.max_new_tokens = 64;
    auto session_options = owlet_session_options_init();
    session_options.answer = &answer_options;
    session_options.n_threads = 1;
    auto session = make<owlet_session>(owlet_session_open, model.get(), &session_options);
    for (int i = 3; i < argc; i++) {
        const owlet_image *images[] = {image.get()};
        auto question = owlet_message_init();
        question.text = argv[i];
        question.images = images;
        question.n_images = i == 3 ? 1 : 0;
        std::string answer;
        auto turn = make<owlet_turn>(owlet_session_ask, session.get(), &question, append, &answer, nullptr);
        std::printf("%s\n", owlet_turn_answer(turn.get()));
        if (answer != owlet_turn_answer(turn.get())) {
            throw std::runtime_error("the pieces are not the answer");
        }
    }
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 4) {
        std::fprintf(stderr, "usage: %s MODEL.gguf PICTURE QUESTION...\n", argv[0]);
        return 2;
    }
    try {
        chat(argc, argv);
        return 0;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return 1;
    }
}
