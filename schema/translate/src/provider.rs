//! Names of those who serve models.

use std::borrow::Cow;

/// The current name of a provider that the conventions have renamed. As sent, it stays in its attribute.
pub fn current_name(name: Cow<'_, str>) -> Cow<'_, str> {
    let current = match &*name {
        "az.ai.openai" => "azure.ai.openai",
        "az.ai.inference" => "azure.ai.inference",
        "vertex_ai" => "gcp.vertex_ai",
        "gemini" => "gcp.gemini",
        "xai" => "x_ai",
        "mistralai" => "mistral_ai",
        // LangSmith's OTel mode calls itself the provider where it does not know one.
        "langchain" => "",
        _ => return name,
    };
    Cow::Borrowed(current)
}
